"""Published accuracy: what the authors print, beside what it costs."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Picture

from ..catalogue import ENTRIES
from ..figures import MIXERS, Figure, axis_title, figure_spec, style, tooltip
from ..hypotheses import draw_gaps, gaps_figure, gaps_of, hypotheses_of
from ..pictures import look_of, panels
from ..published_results import ACCURACIES, COSTS, published_results
from ..records import Record
from ..result import Comparison
from ..section import Section
from ..session import Session
from ..tables import (
    Cell,
    Column,
    Notes,
    Row,
    SummaryColumn,
    empty,
    number_text,
    percent_text,
    sort_key,
)

# Of the two counts (mambaout_mm/compat/flop_counter.py), the one that authors print.
SCAN_RULE = 'a scan counts 9 L D N'
# Columns of the summary: column of published.csv, title, small line, method, schedule.
IN_SUMMARY = (
    ('top1', 'top-1, %', 'ImageNet-1K, 300 epochs', 'ImageNet-1K', '300e'),
    ('ap_box', 'box AP, %', 'COCO, Mask R-CNN 1x', 'Mask R-CNN', '1x'),
    ('miou_ss', 'mIoU, %', 'ADE20K, UperNet 160k, single-scale', 'UperNet', '160k'),
)
# Figures of the page: task, title, columns of published.csv and what they are called.
FIGURES = (
    ('classification', 'Classification: ImageNet-1K', [('top1', 'top-1')]),
    ('detection', 'Detection: COCO', [('ap_box', 'box AP'), ('ap_mask', 'mask AP')]),
    (
        'segmentation',
        'Segmentation: ADE20K',
        [('miou_ss', 'mIoU, single-scale'), ('miou_ms', 'mIoU, multi-scale')],
    ),
)
COST_AXES = (('macs_g', 'MACs, G'), ('params_m', 'params, M'))
# Panels of the picture: method, schedule, column of published.csv, title.
PANELS = (
    ('Mask R-CNN', '1x', 'ap_box', 'COCO box AP, Mask R-CNN 1x'),
    ('UperNet', '160k', 'miou_ss', 'ADE20K mIoU, UperNet 160k, single scale'),
    ('ImageNet-1K', '300e', 'top1', 'ImageNet-1K top-1, 300 epochs'),
)
# Names of a family's sizes in published.csv, and how their line is drawn.
FAMILIES = {
    'MambaOut-.*': '-',
    'VMambaV9-[TSB]': '-',
    'VMamba-[TSB]': ':',
    'ConvNeXt-[TSB]': '-',
    'Swin-[TSB]': '-',
}


class PublishedSection(Section):
    """What the authors print, with its source and what to keep in mind."""

    name = 'published'
    heading = 'Published accuracy'
    origin = 'published'
    turn = 0  # it takes no time
    template = """
<p>{{ tag('published') }} Single trainings under recipes that differ; a point's tooltip has its
source and what to keep in mind, and so has the table of all records.</p>
<h3>The paper's two hypotheses in one picture</h3>
<div class="beside">
{{ plot(figures[0]) }}
<div>
{% for claim, evidence in hypotheses %}
<p><strong>{{ claim }}</strong><br>{{ evidence }}</p>
{% endfor %}
<p class="small">MambaOut minus VMamba at the same size, from MambaOut's tables 1 to 3 (VMamba is
“VMambaV9” there; on COCO its Base is VMamba's run with a batch of 8, mask AP 43.9; that with 16 has
44.1). Right of zero MambaOut is ahead, left of it VMamba.</p>
</div>
</div>
<div class="figures small-ones">
{% for figure in figures[1:] %}
<div><h3>{{ figure.title }}</h3>
<label class="view">schedule, accuracy and cost
<select data-figure="{{ figure.name }}">
{% for view in figure.views %}
<option value="{{ view.key }}">{{ view.label }}</option>
{% endfor %}
</select></label>
{{ plot(figure) }}
<p class="small" id="{{ figure.name }}-missing">{{ figure.views[0].missing }}</p></div>
{% endfor %}
</div>
"""

    def records(self, session: Session) -> list[Record]:
        names = {entry.published: entry.name for entry in ENTRIES if entry.published}
        return list(published_records(published_results(), names))

    def summary_columns(self, comparison: Comparison, notes: Notes) -> list[SummaryColumn]:
        if not self.shown(comparison):
            return []
        published = published_results()
        names = {entry.name: entry.published for entry in comparison.entries}
        columns = []
        for accuracy, title, small, *recipe in IN_SUMMARY:
            rows = published[published[accuracy].notna()]
            cell_of = accuracy_cells(rows, accuracy, tuple(recipe), names, notes)
            columns.append(SummaryColumn(Column(self.origin, '', title, small), cell_of))
        return columns

    def figures(self, comparison: Comparison) -> list[Figure]:
        published = published_results()
        return [gaps_figure(gaps_of(published)), *published_figures(published)]

    def context(self, comparison: Comparison) -> dict[str, Any]:
        return dict(hypotheses=hypotheses_of(gaps_of(published_results())))

    def pictures(self, comparison: Comparison) -> Iterator[tuple[str, Picture]]:
        if self.shown(comparison):
            published = published_results()
            yield self.name, draw_published(published)
            yield 'gap', draw_gaps(gaps_of(published))


def published_records(rows: pd.DataFrame, names: Mapping[str, str]) -> Iterator[Record]:
    """A record for each accuracy that a row prints, and for its cost.

    Args:
        rows (pd.DataFrame): Of :func:`.published_results.published_results`.
        names (Mapping[str, str]): From printed names to this project's, where they differ:
            MambaOut's tables call VMamba's first release "VMamba", others its second.
    """
    for row in rows.to_dict('records'):
        printed = row['backbone']
        name = names.get(printed, printed)
        note = '' if name == printed else f'printed as {printed}'
        for column, quantity, unit in (*ACCURACIES, *COSTS):
            if pd.isna(row[column]):
                continue
            yield Record(
                section='published',
                backbone=name,
                mixer=row['mixer'],
                model=row['method'],
                quantity=quantity,
                setting=row['schedule'],
                size=row['input'],
                value=row[column],
                unit=unit,
                origin='published',
                source=row['source'],
                note='; '.join(filter(None, (note, row['caveat']))),
            )


def accuracy_cells(
    rows: pd.DataFrame,
    accuracy: str,
    recipe: tuple[str, ...],
    names: Mapping[str, str],
    notes: Notes,
) -> Callable[[str], Cell]:
    """A function from a backbone to its cell in a column of published accuracies.

    Args:
        rows (pd.DataFrame): The published rows that have this accuracy.
        accuracy (str): Its column in ``published.csv``.
        recipe (tuple[str, ...]): Method and schedule.
        names (Mapping[str, str]): From a compared backbone's name to the published one; one that
            is missing or '' has none.
        notes (Notes): For sources and caveats.
    """

    def cell_of(backbone: str) -> Cell:
        name = names.get(backbone, '')
        found = rows[rows['backbone'] == name].to_dict('records')
        for row in found:
            if (row['method'], row['schedule']) == recipe:
                note = notes.number(f'{name} in {row["source"]}', row['caveat'])
                value = row[accuracy]
                return Cell(percent_text(value), sort_key(value), '', notes.texts[note - 1], note)
        others = '; '.join(f'{row["method"]}, {row["schedule"]}' for row in found)
        return empty(f'not published: only with {others}' if others else 'not published')

    return cell_of


def published_figures(rows: pd.DataFrame) -> list[Figure]:
    """Published accuracy against published cost; a figure for each task, a view for each schedule.

    Args:
        rows (pd.DataFrame): Of :func:`.published_results.published_results`.
    """
    figures = []
    for task, title, accuracies in FIGURES:
        views, traces = [], []
        of_task = rows[rows['task'] == task]
        schedules = dict.fromkeys(zip(of_task['method'], of_task['schedule'], strict=True))
        for (method, schedule), (column, accuracy), (cost, label) in itertools.product(
            schedules, accuracies, COST_AXES
        ):
            same = of_task[(of_task['method'] == method) & (of_task['schedule'] == schedule)]
            same = same[same[column].notna()]
            drawn, without = same[same[cost].notna()], same[same[cost].isna()]['backbone']
            if drawn.empty:
                continue
            cost_name = label.split(',')[0]
            missing = f'Not drawn, no {cost_name} published: {", ".join(without)}.'
            view = dict(
                key=f'{task}-{len(views)}',
                label=f'{method} {schedule}: {accuracy} by {cost_name}',
                x=f'{label} (published{"; " + SCAN_RULE if cost == "macs_g" else ""})',
                y=f'{accuracy}, % (published)',
                missing=missing if len(without) else '',
            )
            traces += _scatters(drawn, cost, label, column, accuracy, view['key'], not views)
            views.append(view)
        if views:
            spec = figure_spec(
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
                    _published_text(row, f'{accuracy} {percent_text(row[column])} %', cost, label)
                    for row in part.to_dict('records')
                ],
                hovertemplate='%{text}<extra></extra>',
            )
        )
    return traces


def _published_text(row: Row, accuracy: str, cost: str, label: str) -> str:
    name, unit = label.split(', ')
    parts = [
        f'<b>{tooltip(row["backbone"])}</b> ({tooltip(row["mixer"])})',
        f'{accuracy}, {name} {number_text(row[cost])} {unit}',
        tooltip(', '.join(filter(None, (row['method'], row['schedule'], row['input'])))),
        tooltip(f'published, source: {row["source"]}'),
        tooltip(f'caveat: {row["caveat"] or "none on record"}'),
    ]
    return '<br>'.join(parts)


def draw_published(published: pd.DataFrame) -> Picture:
    """Published accuracy against MACs and against parameters; schedules apart."""
    figure, axes = panels(len(PANELS), 2, 6.5, 4.5)
    for axes_in_row, (method, schedule, accuracy, title) in zip(axes, PANELS, strict=True):
        rows = published[
            (published['method'] == method)
            & (published['schedule'] == schedule)
            & published[accuracy].notna()
        ]
        for axis, (cost, words) in zip(
            axes_in_row,
            (('macs_g', f'MACs (G), as printed: {SCAN_RULE}'), ('params_m', 'parameters (M)')),
            strict=True,
        ):
            scatter(axis, rows, cost, accuracy)
            axis.set(title=title, xlabel=words, ylabel='%')
            axis.grid(alpha=0.3)
        axes_in_row[0].legend(fontsize='small')
    figure.suptitle(
        'As published: single runs under different recipes; the report names source and caveat '
        'of each',
        fontsize='small',
    )
    return figure


def scatter(axis: Axes, rows: pd.DataFrame, cost: str, accuracy: str) -> None:
    """Points by mixer, and the sizes of each compared family joined by a line."""
    rows = rows[rows[cost].notna()]
    for mixer in MIXERS:
        points = rows[(rows['mixer'] == mixer) & ~rows['backbone'].str.startswith('MambaOut')]
        if len(points):
            look = look_of('', mixer)
            axis.scatter(points[cost], points[accuracy], **look, s=18, alpha=0.45, label=mixer)
    for family, dash in FAMILIES.items():
        points = rows[rows['backbone'].str.fullmatch(family)].sort_values(cost)
        if len(points):
            first = points.iloc[0]
            look = look_of(first['backbone'], first['mixer'])
            label = first['backbone'].rsplit('-', 1)[0]
            axis.plot(points[cost], points[accuracy], dash, **look, label=label)
