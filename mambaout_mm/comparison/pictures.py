"""The pictures of a comparison as png files; the report has interactive ones."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from mambaout_mm.files import noted, whole_file

from .erf import ErfMap
from .growth import tokens_at
from .published import gaps
from .report.figures import MIXERS, OURS, SCAN_RULE
from .report.tables import with_error

# Shapes of the report's markers.
MARKERS = {
    'circle': 'o',
    'square': 's',
    'diamond': 'D',
    'triangle-up': '^',
    'cross': 'P',
    'x': 'x',
    'star': '*',
}
DASHES = ('-', '--', ':', '-.', (0, (8, 2)))
MANY = 5  # curves above which a legend would cover some of them
SCALES = {'Tiny': '#D55E00', 'Small': '#0072B2', 'Base': '#009E73'}
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
ERF_FLOOR = 1e-4  # of the largest contribution; below it everything is black


def draw_pictures(
    frame: pd.DataFrame,
    published: pd.DataFrame,
    maps: list[ErfMap],
    folder: Path,
    where: str,
    failures: list[str],
) -> list[Path]:
    """Draw what the frame has numbers for.

    Args:
        frame (pd.DataFrame): Of a comparison.
        published (pd.DataFrame): Of :func:`.published.published_results`.
        maps (list[ErfMap]): Effective receptive fields.
        folder (Path): For growth.png, sequence.png, erf.png, published.png and gap.png.
        where (str): Machine and versions, for the pictures of measurements.
        failures (list[str]): Gets a sentence for each picture that cannot be written.

    Returns:
        list[Path]: The files.
    """
    sections = set(frame['section'])
    drawn = []

    def save(name: str, draw: Callable[[], Figure | None]) -> None:
        figure = draw()
        if figure is None:
            return
        path = folder / f'{name}.png'
        with noted(failures):
            with whole_file(path) as unfinished:
                figure.savefig(unfinished, dpi=110, format='png')
            drawn.append(path)
        plt.close(figure)

    if 'growth' in sections:
        save('growth', lambda: draw_growth(frame, where))
    if 'sequence' in sections:
        save('sequence', lambda: draw_sequence(frame))
    if maps:
        save('erf', lambda: draw_erf(maps))
    if 'published' in sections:
        save('published', lambda: draw_published(published))
        save('gap', lambda: draw_gap(published))
    return drawn


def look_of(backbone: str, mixer: str) -> dict[str, str]:
    """Colour and shape of a backbone's marks, as in the report."""
    colour, shape = OURS if backbone.startswith('MambaOut') else MIXERS.get(mixer, MIXERS[''])
    return dict(color=colour, marker=MARKERS[shape])


def looks_of(rows: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Of each backbone in some rows; those of one colour differ in their lines, then in fill."""
    looks: dict[str, dict[str, Any]] = {}
    for backbone, mixer in rows[['backbone', 'mixer']].drop_duplicates().itertuples(index=False):
        look = look_of(backbone, mixer)
        before = sum(other['color'] == look['color'] for other in looks.values())
        looks[backbone] = look | dict(
            linestyle=DASHES[before % len(DASHES)],
            markerfacecolor='white' if before % 2 else look['color'],
        )
    return looks


def add_legend(axis: Axes, entries: int) -> None:
    """Where the fewest points are, or beside the axes if it would cover some."""
    beside = dict(loc='upper left', bbox_to_anchor=(1, 1)) if entries > MANY else {}
    axis.legend(fontsize='small', **beside)


def draw_growth(frame: pd.DataFrame, where: str) -> Figure | None:
    """Time and memory against tokens: a column for each setting, a row for each quantity."""
    rows = frame[(frame['section'] == 'growth') & (frame['size'] != '') & frame['value'].notna()]
    if rows.empty:
        return None
    settings = list(dict.fromkeys(rows['setting']))
    quantities = list(dict.fromkeys(zip(rows['quantity'], rows['unit'], strict=True)))
    figure, axes = plt.subplots(
        len(quantities),
        len(settings),
        figsize=(6.5 * len(settings), 4 * len(quantities)),
        squeeze=False,
        layout='constrained',
    )
    fits = frame[frame['quantity'] == 'exponent of time'].set_index(['backbone', 'setting'])
    looks = looks_of(rows)
    for line, (quantity, unit) in zip(axes, quantities, strict=True):
        for axis, setting in zip(line, settings, strict=True):
            shown = rows[(rows['quantity'] == quantity) & (rows['setting'] == setting)]
            own = fits.xs(setting, level=1).to_dict('index') if quantity == 'time' else {}
            draw_curves(axis, shown, looks, own)
            axis.set(title=f'{quantity}, {setting}', xlabel='tokens at stride 16', ylabel=unit)
            axis.set_visible(not shown.empty)
    figure.suptitle(f'{where}; bands: 10th to 90th percentile', fontsize='small')
    return figure


def draw_curves(
    axis: Axes,
    rows: pd.DataFrame,
    looks: dict[str, dict[str, Any]],
    fits: Mapping[str, dict[str, Any]],
) -> None:
    """A line for each backbone on logarithmic axes, its exponent and its error in the legend."""
    axis.set(xscale='log', yscale='log')
    rows = rows.assign(tokens=[tokens_at(*map(int, size.split('x'))) for size in rows['size']])
    for backbone, points in rows.groupby('backbone', sort=False):
        label = backbone
        if backbone in fits and not np.isnan(fits[backbone]['value']):
            label += f'  (tokens to the power {with_error(fits[backbone])})'
        axis.plot(points['tokens'], points['value'], **looks[backbone], label=label)
        low, high = points['low'].astype(float), points['high'].astype(float)
        axis.fill_between(
            points['tokens'], low, high, color=looks[backbone]['color'], alpha=0.2, linewidth=0
        )
    ticks = rows[['tokens', 'size']].drop_duplicates('tokens')
    labels = [f'{tokens}\n{size}' for tokens, size in ticks.itertuples(index=False)]
    axis.set_xticks(ticks['tokens'], labels, fontsize='x-small')
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    if not rows.empty:
        add_legend(axis, len(looks))


def draw_sequence(frame: pd.DataFrame) -> Figure | None:
    """The ratio L / 6D of each stage, a panel for each image size."""
    rows = frame[(frame['quantity'] == 'tokens / 6D') & frame['value'].notna()]
    if rows.empty:
        return None
    sizes = list(dict.fromkeys(rows['size']))
    figure, axes = plt.subplots(
        1, len(sizes), figsize=(5 * len(sizes), 4), sharey=True, squeeze=False, layout='constrained'
    )
    looks = looks_of(rows)
    for axis, size in zip(axes[0], sizes, strict=True):
        for number, (backbone, look) in enumerate(looks.items()):
            points = rows[(rows['size'] == size) & (rows['backbone'] == backbone)]
            stages = points['setting'].str.removeprefix('stage ').astype(int)
            axis.plot(
                stages + 0.6 * ((number + 0.5) / len(looks) - 0.5),  # side by side
                points['value'],
                **look | dict(linestyle=''),
                label=backbone,
            )
        axis.axhline(1, color='#555555', linestyle='--')
        axis.set(yscale='log', title=size, xlabel='stage', xticks=[1, 2, 3, 4])
        axis.grid(alpha=0.3, which='both')
    axes[0, 0].set_ylabel('tokens / 6D')
    add_legend(axes[0, -1], len(looks))
    figure.suptitle(
        "Above the dashed line attention's quadratic part costs more than its linear part",
        fontsize='small',
    )
    return figure


def draw_erf(maps: list[ErfMap]) -> Figure:
    """A gallery: a row for each backbone, a column for each stage."""
    backbones = list(dict.fromkeys(erf.backbone for erf in maps))
    stages = sorted({erf.stage for erf in maps})
    figure, axes = plt.subplots(
        len(backbones),
        len(stages),
        figsize=(2.25 * len(stages), 2.3 * len(backbones)),
        squeeze=False,
        layout='constrained',
    )
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.set_frame_on(False)
    for line, backbone in zip(axes, backbones, strict=True):
        line[0].set_ylabel(backbone)
    for erf in maps:
        axis = axes[backbones.index(erf.backbone), stages.index(erf.stage)]
        shown = np.maximum(erf.values, ERF_FLOOR)
        axis.imshow(shown, norm=LogNorm(ERF_FLOOR, 1), cmap='cividis')
        axis.set_title(f'stage {erf.stage}', fontsize='small')
    weights = dict.fromkeys(erf.weights for erf in maps)
    figure.suptitle(
        f"What the middle of each stage's map sees of a {maps[0].size} image (weights: "
        f'{", ".join(weights)}); colours in powers of ten',
        fontsize='small',
    )
    return figure


def draw_published(published: pd.DataFrame) -> Figure:
    """Published accuracy against MACs and against parameters; schedules apart."""
    figure, axes = plt.subplots(
        len(PANELS), 2, figsize=(13, 4.5 * len(PANELS)), layout='constrained'
    )
    for line, (method, schedule, accuracy, title) in zip(axes, PANELS, strict=True):
        rows = published[
            (published['method'] == method)
            & (published['schedule'] == schedule)
            & published[accuracy].notna()
        ]
        for axis, (cost, words) in zip(
            line,
            (('macs_g', f'MACs (G), as printed: {SCAN_RULE}'), ('params_m', 'parameters (M)')),
            strict=True,
        ):
            scatter(axis, rows, cost, accuracy)
            axis.set(title=title, xlabel=words, ylabel='%')
            axis.grid(alpha=0.3)
        line[0].legend(fontsize='small')
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
    for family, style in FAMILIES.items():
        points = rows[rows['backbone'].str.fullmatch(family)].sort_values(cost)
        if len(points):
            first = points.iloc[0]
            look = look_of(first['backbone'], first['mixer'])
            label = first['backbone'].rsplit('-', 1)[0]
            axis.plot(points[cost], points[accuracy], style, **look, label=label)


def draw_gap(published: pd.DataFrame) -> Figure:
    """MambaOut minus VMamba on each task."""
    table = gaps(published).pivot(index='quantity', columns='scale', values='gap')
    names = {
        'top-1': 'ImageNet\ntop-1',
        'box AP': 'COCO\nbox AP',
        'mask AP': 'COCO\nmask AP',
        'mIoU': 'ADE20K\nmIoU',
        'mIoU multi-scale': 'ADE20K mIoU\nmulti-scale',
    }
    table = table.loc[list(names)]
    figure, axis = plt.subplots(figsize=(9, 4.5), layout='constrained')
    for number, (scale, colour) in enumerate(SCALES.items()):
        places = np.arange(len(table)) + 0.25 * (number - 1)
        bars = axis.bar(places, table[scale], 0.23, label=scale, color=colour)
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
