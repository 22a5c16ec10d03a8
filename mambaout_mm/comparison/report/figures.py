"""The figures of a report, as what plotly.js draws."""

import html
import math
import textwrap
from collections.abc import Iterable
from typing import Any, NamedTuple

import pandas as pd
import plotly.graph_objects as go

from ..growth import tokens_at
from .tables import Row, Rows, number, percent, signed, spread

# Colours of Okabe and Ito, which people of any colour vision tell apart, and a shape for each.
MIXERS = {
    'Conv': ('#0072B2', 'circle'),
    'Attn': ('#009E73', 'square'),
    'Conv+Attn': ('#E69F00', 'diamond'),
    'Conv+SSM': ('#CC79A7', 'triangle-up'),
    'Pool': ('#56B4E9', 'cross'),
    '': ('#808080', 'x'),
}
OURS = ('#D55E00', 'star')
# Of the two counts (mambaout_mm/compat/flop_counter.py), the one that authors print.
SCAN_RULE = 'a scan counts 9 L D N'
DASHES = ('solid', 'dash', 'dot', 'dashdot', 'longdash')


class Figure(NamedTuple):
    """What plotly.js draws, and the views that a select offers.

    Attributes:
        name (str): The id of its element.
        title (str): Heading above it.
        spec (dict): ``data`` and ``layout``. A trace's ``meta`` is the view it belongs to.
        views (list[dict]): ``key``, ``label``, ``x`` and ``y`` (titles of the axes) and ``missing``
            (a sentence on what is not drawn).
    """

    name: str
    title: str
    spec: dict[str, Any]
    views: list[dict[str, str]]


def figure(traces: list[Any], **layout: Any) -> dict[str, Any]:
    """Data and layout of traces; colours of text and grid are the page's own."""
    layout = (
        dict(
            template=go.layout.Template(),
            height=480,
            margin=dict(l=60, r=16, t=30, b=50),
            legend=dict(orientation='h', y=-0.22, yanchor='top', x=0),
            font=dict(size=13),
            hoverlabel=dict(align='left', font=dict(size=13)),
            hovermode='closest',
            modebar=dict(bgcolor='rgba(0,0,0,0)'),
        )
        | layout
    )
    return go.Figure(traces, layout).to_plotly_json()


def style(backbone: str, mixer: str) -> tuple[str, str]:
    """Colour and shape of a backbone's markers."""
    return OURS if backbone.startswith('MambaOut') else MIXERS.get(mixer, MIXERS[''])


def lines(text: str, width: int = 44) -> str:
    """Text for a tooltip: escaped, in lines short enough for a phone."""
    return '<br>'.join(
        html.escape(line, quote=False)
        for line in textwrap.wrap(text, width, break_on_hyphens=False)
    )


def growth_figures(rows: Rows) -> list[Figure]:
    """A figure for each quantity and setting that was measured, over tokens at stride 16."""
    points = [r for r in rows.of('growth') if r['size'] and not math.isnan(r['value'])]
    figures = []
    for quantity, setting in dict.fromkeys((r['quantity'], r['setting']) for r in points):
        same = [r for r in points if (r['quantity'], r['setting']) == (quantity, setting)]
        traces = [
            _curve([r for r in same if r['backbone'] == name], nth)
            for name, nth in _place_in_mixer(rows).items()
            if any(r['backbone'] == name for r in same)
        ]
        unit = same[0]['unit']
        spec = figure(
            [*_slopes(same), *traces],
            xaxis=log_axis('tokens at stride 16', [_tokens(r) for r in same]),
            yaxis=log_axis(f'{quantity}, {unit}', [r['value'] for r in same]),
        )
        figures.append(
            Figure(
                f'growth-{len(figures)}',
                f'{quantity[0].upper()}{quantity[1:]}: {setting}',
                spec,
                [],
            )
        )
    return figures


def axis_title(text: str) -> dict[str, Any]:
    """Near its axis, so that the legend has room below."""
    return dict(text=text, standoff=6, font=dict(size=13))


def log_axis(title: str, values: list[float]) -> dict[str, Any]:
    """A logarithmic axis with marks at 1, 2 and 5 times powers of ten, or at the powers alone.

    Plotly's own marks in between are too small to read.
    """
    values = [value for value in values if value > 0]
    first, last = (math.floor(math.log10(x)) for x in (min(values), max(values)))
    marks = [m * 10.0**power for power in range(first - 1, last + 2) for m in (1, 2, 5)]
    inside = [x for x in marks if min(values) / 2 <= x <= max(values) * 3]
    if len(inside) > 8:
        inside = [x for x in marks if math.log10(x).is_integer()]
    return dict(
        type='log',
        title=axis_title(title),
        tickangle=0,
        tickvals=inside,
        ticktext=[number(x) if x < 1000 else f'{x / 1000:g}k' for x in inside],
    )


def _place_in_mixer(rows: Rows) -> dict[str, int]:
    """How many backbones of the same colour come before each."""
    before: dict[tuple[str, str], int] = {}
    places = {}
    for backbone, mixer in rows.mixers.items():
        key = style(backbone, mixer)
        places[backbone] = before.setdefault(key, 0)
        before[key] += 1
    return places


def _curve(points: list[Row], nth: int) -> go.Scatter:
    points = sorted(points, key=_tokens)
    first = points[0]
    colour, symbol = style(first['backbone'], first['mixer'])
    ours = colour == OURS[0]
    return go.Scatter(
        x=[_tokens(r) for r in points],
        y=[r['value'] for r in points],
        error_y=dict(
            array=[_or_zero(r['high'] - r['value']) for r in points],
            arrayminus=[_or_zero(r['value'] - r['low']) for r in points],
            thickness=1,
        ),
        name=lines(first['backbone'], 100),
        mode='lines+markers',
        line=dict(color=colour, dash=DASHES[nth % len(DASHES)], width=3 if ours else 2),
        marker=dict(symbol=symbol + ('-open' if nth % 2 else ''), size=11 if ours else 8),
        text=[_point_text(r) for r in points],
        hovertemplate='%{text}<extra></extra>',
    )


def _point_text(row: Row) -> str:
    parts = [
        f'<b>{lines(row["backbone"])}</b>, {row["size"]}',
        f'{number(row["value"])} {row["unit"]}',
        spread(row) and f'deciles: {spread(row)}',
        f'{number(_tokens(row))} tokens at stride 16',
        f'{lines(row["quantity"])}, {lines(row["setting"])}; measured on this machine',
        lines(row['note']),
    ]
    return '<br>'.join(filter(None, parts))


def _slopes(points: list[Row]) -> list[go.Scatter]:
    """Guides for the eye: growth with the tokens and with their square."""
    x = [min(map(_tokens, points)), max(map(_tokens, points))]
    if x[0] == x[1]:
        return []
    y = max(r['value'] for r in points if _tokens(r) == x[0])
    top = max(r['value'] for r in points)
    guides = []
    for power, label in ((1, 'linear'), (2, 'quadratic')):
        # Cut where it leaves the data, so that it does not stretch the axis.
        end = min(x[1], x[0] * (3 * top / y) ** (1 / power))
        guides.append(
            go.Scatter(
                x=[x[0], end],
                y=[y, y * (end / x[0]) ** power],
                mode='lines',
                line=dict(color='#808080', width=1, dash='dash' if power == 1 else 'dot'),
                name=label,
                legendrank=2000,  # after the backbones
                hoverinfo='skip',
            )
        )
    return guides


def _tokens(row: Row) -> int:
    return tokens_at(*(int(side) for side in row['size'].split('x')))


def _or_zero(value: float) -> float:
    return 0.0 if math.isnan(value) else max(value, 0.0)


def published_figures(rows: pd.DataFrame) -> list[Figure]:
    """Published accuracy against published cost; a figure for each task, a view for each schedule.

    Args:
        rows (pd.DataFrame): As from ``published_results``.
    """
    figures = []
    for task, title, accuracies in (
        ('classification', 'Classification: ImageNet-1K', [('top1', 'top-1')]),
        ('detection', 'Detection: COCO', [('ap_box', 'box AP'), ('ap_mask', 'mask AP')]),
        (
            'segmentation',
            'Segmentation: ADE20K',
            [('miou_ss', 'mIoU, single-scale'), ('miou_ms', 'mIoU, multi-scale')],
        ),
    ):
        views, traces = [], []
        own = rows[rows['task'] == task]
        for method, schedule in dict.fromkeys(zip(own['method'], own['schedule'], strict=True)):
            same = own[(own['method'] == method) & (own['schedule'] == schedule)]
            for column, accuracy in accuracies:
                for cost, label in (('macs_g', 'MACs, G'), ('params_m', 'params, M')):
                    drawn = same[same[column].notna() & same[cost].notna()]
                    if drawn.empty:
                        continue
                    key = f'{task}-{len(views)}'
                    rule = f'; {SCAN_RULE}' if cost == 'macs_g' else ''
                    without = same[same[column].notna() & same[cost].isna()]['backbone']
                    views.append(
                        dict(
                            key=key,
                            label=f'{method} {schedule}: {accuracy} by {label.split(",")[0]}',
                            x=f'{label} (published{rule})',
                            y=f'{accuracy}, % (published)',
                            missing=(
                                f'Not drawn, no {label.split(",")[0]} published: '
                                f'{", ".join(without)}.'
                                if len(without)
                                else ''
                            ),
                        )
                    )
                    traces += _scatters(drawn, cost, label, column, accuracy, key, len(views) == 1)
        if views:
            spec = figure(
                traces,
                xaxis=dict(title=axis_title(views[0]['x']), tickangle=0),
                yaxis=dict(title=axis_title(views[0]['y'])),
            )
            figures.append(Figure(task, title, spec, views))
    return figures


def _scatters(
    rows: pd.DataFrame, cost: str, label: str, column: str, accuracy: str, view: str, visible: bool
) -> list[go.Scatter]:
    """A trace for each mixer, and MambaOut's own on top."""
    ours = rows['backbone'].str.startswith('MambaOut')
    parts = [(mixer, rows[~ours & (rows['mixer'] == mixer)]) for mixer in MIXERS]
    parts.append(('MambaOut', rows[ours]))
    traces = []
    for name, part in parts:
        if part.empty:
            continue
        emphasised = name.startswith('MambaOut')
        colour, symbol = style(name, name)
        traces.append(
            go.Scatter(
                x=part[cost].tolist(),
                y=part[column].tolist(),
                name=name,
                mode='markers',
                marker=dict(
                    color=colour,
                    symbol=symbol,
                    size=14 if emphasised else 9,
                    line=dict(color='#202020', width=1),
                ),
                meta=view,
                visible=visible,
                text=[
                    _published_text(row, f'{accuracy} {percent(row[column])} %', cost, label)
                    for row in part.to_dict('records')
                ],
                hovertemplate='%{text}<extra></extra>',
            )
        )
    return traces


def _published_text(row: Row, accuracy: str, cost: str, label: str) -> str:
    name, unit = label.split(', ')
    parts = [
        f'<b>{lines(row["backbone"])}</b> ({lines(row["mixer"])})',
        f'{accuracy}, {name} {number(row[cost])} {unit}',
        lines(', '.join(filter(None, (row['method'], row['schedule'], row['input'])))),
        lines(f'published, source: {row["source"]}'),
        lines(f'caveat: {row["caveat"] or "none on record"}'),
    ]
    return '<br>'.join(parts)


def gaps_figure(gaps: pd.DataFrame) -> Figure:
    """MambaOut minus VMamba on each task, as bars from zero.

    Args:
        gaps (pd.DataFrame): As from ``published.gaps``.
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
                text=[f'{scale} {signed(gap)}' for gap in part['gap']],
                textposition='outside',
                cliponaxis=False,
                hovertext=[
                    f'<b>{row["quantity"]}, {scale}</b><br>MambaOut {percent(row["mambaout"])} %, '
                    f'VMamba {percent(row["vmamba"])} %'
                    f'<br>published, source: {lines(row["source"])}'
                    '<br>caveat: one training each, recipes differ'
                    for row in part.to_dict('records')
                ],
                hovertemplate='%{hovertext}<extra></extra>',
            )
        )
    low, high = gaps['gap'].min(), gaps['gap'].max()
    spec = figure(
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


def specs(figures: Iterable[Figure]) -> dict[str, Any]:
    """By id, what the page's script needs to draw."""
    return {one.name: dict(**one.spec, views=one.views) for one in figures}
