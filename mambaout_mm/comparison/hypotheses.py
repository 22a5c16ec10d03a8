"""The paper's two hypotheses in published numbers: MambaOut minus VMamba on each task."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from matplotlib.figure import Figure as Picture

from .figures import MIXERS, OURS, Figure, axis_title, figure_spec, tooltip
from .pictures import panels
from .published_results import ACCURACIES, PAPER
from .tables import percent_text, signed_text

SCALES = {'Tiny': '#D55E00', 'Small': '#0072B2', 'Base': '#009E73'}


def gaps_of(rows: pd.DataFrame) -> pd.DataFrame:
    """MambaOut minus VMamba on each task: the paper's two hypotheses in one table.

    Both sides are from MambaOut's tables 1 to 3, where "VMambaV9" is the VMamba of today. Its Base
    on COCO is VMamba's run with a batch of 8 (49.2, 43.9); that with 16 has 49.2 and 44.1.
    Hypothesis 1 (no SSM is needed to classify) says that the gap is not negative on ImageNet;
    hypothesis 2 (it is worth exploring for dense prediction) that it may be on COCO and ADE20K.

    Args:
        rows (pd.DataFrame): Of :func:`.published_results.published_results`.

    Returns:
        pd.DataFrame: Columns ``scale`` ('Tiny', 'Small', 'Base'), ``quantity``, ``mambaout``,
        ``vmamba``, ``gap`` (all in percent) and ``source``.
    """
    rows = rows[
        rows['source'].str.startswith(PAPER) & rows['schedule'].isin(['300e', '1x', '160k'])
    ]
    by_name = {(row['backbone'], row['task']): row for row in rows.to_dict('records')}
    table = []
    for column, quantity, _ in ACCURACIES:
        task = {'top1': 'classification', 'ap_box': 'detection', 'ap_mask': 'detection'}.get(
            column, 'segmentation'
        )
        for scale in ('Tiny', 'Small', 'Base'):
            ours = by_name[f'MambaOut-{scale}', task]
            theirs = by_name[f'VMambaV9-{scale[0]}', task]
            table.append(
                dict(
                    scale=scale,
                    quantity=quantity,
                    mambaout=ours[column],
                    vmamba=theirs[column],
                    gap=round(ours[column] - theirs[column], 1),
                    source=ours['source'],
                )
            )
    return pd.DataFrame(table)


def hypotheses_of(gaps: pd.DataFrame) -> list[tuple[str, str]]:
    """The paper's two hypotheses, each with what the published numbers say of it.

    Args:
        gaps (pd.DataFrame): Of :func:`gaps_of`.
    """

    def points(quantities: tuple[str, ...]) -> str:
        gap = gaps[gaps['quantity'].isin(quantities)]['gap']
        ahead, behind = int((gap > 0).sum()), int((gap < 0).sum())
        return (
            f'of {len(gap)} published pairs MambaOut is ahead in {ahead} and behind in {behind}; '
            f'the gaps are {signed_text(gap.min())} to {signed_text(gap.max())}'
        )

    return [
        (
            'Hypothesis 1: classifying images on ImageNet needs no SSM, since the sequence is '
            'short and nothing is generated token by token.',
            f'Top-1: {points(("top-1",))} points.',
        ),
        (
            'Hypothesis 2: for detection and segmentation, whose sequences are long, an SSM is '
            'worth exploring.',
            f'COCO AP: {points(("box AP", "mask AP"))} points. '
            f'ADE20K mIoU: {points(("mIoU", "mIoU multi-scale"))} points.',
        ),
    ]


def gaps_figure(gaps: pd.DataFrame) -> Figure:
    """MambaOut minus VMamba on each task, as bars from zero.

    Args:
        gaps (pd.DataFrame): Of :func:`gaps_of`.
    """
    names = {
        'top-1': 'ImageNet-1K<br>top-1',
        'box AP': 'COCO<br>box AP',
        'mask AP': 'COCO<br>mask AP',
        'mIoU': 'ADE20K<br>mIoU (single)',
        'mIoU multi-scale': 'ADE20K<br>mIoU (multi)',
    }
    order = [name for name in names if name in set(gaps['quantity'])]
    traces = []
    for scale in gaps['scale'].unique():
        part = gaps[gaps['scale'] == scale].set_index('quantity').loc[order].reset_index()
        traces.append(
            go.Bar(
                orientation='h',
                y=[names[quantity] for quantity in part['quantity']],
                x=part['gap'].tolist(),
                name=scale,
                marker=dict(
                    color=[OURS[0] if gap >= 0 else MIXERS['Conv+SSM'][0] for gap in part['gap']]
                ),
                text=[f'{scale} {signed_text(gap)}' for gap in part['gap']],
                textposition='outside',
                cliponaxis=False,
                hovertext=[
                    f'<b>{row["quantity"]}, {scale}</b>'
                    f'<br>MambaOut {percent_text(row["mambaout"])} %, '
                    f'VMamba {percent_text(row["vmamba"])} %'
                    f'<br>published, source: {tooltip(row["source"])}'
                    '<br>caveat: one training each, recipes differ'
                    for row in part.to_dict('records')
                ],
                hovertemplate='%{hovertext}<extra></extra>',
            )
        )
    low, high = gaps['gap'].min(), gaps['gap'].max()
    spec = figure_spec(
        traces,
        height=560,
        showlegend=False,
        bargap=0.25,
        xaxis=dict(
            title=axis_title('difference, points'),
            range=[min(low, 0) - 1.5, max(high, 0) + 1.5],  # room for the texts
            zeroline=True,
            zerolinewidth=2,
        ),
        yaxis=dict(autorange='reversed', automargin=True),
    )
    return Figure('gaps', 'MambaOut minus VMamba', spec, [])


def draw_gaps(gaps: pd.DataFrame) -> Picture:
    """MambaOut minus VMamba on each task, as a picture.

    Args:
        gaps (pd.DataFrame): Of :func:`gaps_of`.
    """
    table = gaps.pivot(index='quantity', columns='scale', values='gap')
    names = {
        'top-1': 'ImageNet\ntop-1',
        'box AP': 'COCO\nbox AP',
        'mask AP': 'COCO\nmask AP',
        'mIoU': 'ADE20K\nmIoU',
        'mIoU multi-scale': 'ADE20K mIoU\nmulti-scale',
    }
    table = table.loc[list(names)]
    figure, ((axis,),) = panels(1, 1, 9, 4.5)
    for number, (scale, colour) in enumerate(SCALES.items()):
        centres = np.arange(len(table)) + 0.25 * (number - 1)
        bars = axis.bar(centres, table[scale], 0.23, label=scale, color=colour)
        axis.bar_label(bars, fmt='%+.1f', fontsize='small', padding=2)
    axis.axhline(0, color='#000000', linewidth=1)
    axis.set(
        xticks=range(len(table)),
        xticklabels=names.values(),
        ylabel='MambaOut minus VMamba, points',
        title='As published in MambaOut (tables 1 to 3, "VMambaV9")\n'
        "Base on COCO: VMamba's run with a batch of 8",
    )
    axis.margins(y=0.12)
    axis.legend()
    return figure
