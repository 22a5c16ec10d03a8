"""The curves of the section 'growth': for the page by plotly, for a picture by matplotlib."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Picture

from mambaout_mm.measure.growth import tokens_at

from .figures import OURS, Figure, figure_spec, log_axis, style, tooltip
from .pictures import add_legend, looks_of, panels
from .records import size_of
from .tables import Row, number_text, spread, with_error

DASHES = ('solid', 'dash', 'dot', 'dashdot', 'longdash')


def growth_figures(points: list[Row], mixers: Mapping[str, str]) -> list[Figure]:
    """A figure for each quantity and setting that was measured, over tokens at stride 16.

    Args:
        points (list[Row]): Records of times and bytes.
        mixers (Mapping[str, str]): The mixer of each backbone, in the order to show them.
    """
    figures = []
    for quantity, setting in dict.fromkeys((r['quantity'], r['setting']) for r in points):
        same = [r for r in points if (r['quantity'], r['setting']) == (quantity, setting)]
        traces = [
            _curve([r for r in same if r['backbone'] == name], nth)
            for name, nth in _numbers_in_colour(mixers).items()
            if any(r['backbone'] == name for r in same)
        ]
        unit = same[0]['unit']
        spec = figure_spec(
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


def _numbers_in_colour(mixers: Mapping[str, str]) -> dict[str, int]:
    """How many backbones of the same colour come before each."""
    count: dict[tuple[str, str], int] = {}
    numbers = {}
    for backbone, mixer in mixers.items():
        colour = style(backbone, mixer)
        numbers[backbone] = count.get(colour, 0)
        count[colour] = numbers[backbone] + 1
    return numbers


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
        name=tooltip(first['backbone'], 100),
        mode='lines+markers',
        line=dict(color=colour, dash=DASHES[nth % len(DASHES)], width=3 if ours else 2),
        marker=dict(symbol=symbol + ('-open' if nth % 2 else ''), size=11 if ours else 8),
        text=[_point_text(r) for r in points],
        hovertemplate='%{text}<extra></extra>',
    )


def _point_text(row: Row) -> str:
    parts = [
        f'<b>{tooltip(row["backbone"])}</b>, {row["size"]}',
        f'{number_text(row["value"])} {row["unit"]}',
        spread(row) and f'deciles: {spread(row)}',
        f'{number_text(_tokens(row))} tokens at stride 16',
        f'{tooltip(row["quantity"])}, {tooltip(row["setting"])}; measured on this machine',
        tooltip(row['note']),
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
    return tokens_at(*size_of(row['size']))


def _or_zero(value: float) -> float:
    return 0.0 if math.isnan(value) else max(value, 0.0)


def draw_growth(rows: pd.DataFrame, fits: pd.DataFrame, where: str) -> Picture:
    """Time and memory against tokens: a column for each setting, a row for each quantity.

    Args:
        rows (pd.DataFrame): Records of times and bytes.
        fits (pd.DataFrame): Records of exponents.
        where (str): Machine and versions.
    """
    settings = list(dict.fromkeys(rows['setting']))
    quantities = list(dict.fromkeys(zip(rows['quantity'], rows['unit'], strict=True)))
    figure, axes = panels(len(quantities), len(settings), 6.5, 4)
    fits = fits.set_index(['backbone', 'setting'])
    looks = looks_of(rows)
    for axes_in_row, (quantity, unit) in zip(axes, quantities, strict=True):
        for axis, setting in zip(axes_in_row, settings, strict=True):
            shown = rows[(rows['quantity'] == quantity) & (rows['setting'] == setting)]
            exponents = fits.xs(setting, level=1).to_dict('index') if quantity == 'time' else {}
            draw_curves(axis, shown, looks, exponents)
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
    rows = rows.assign(tokens=[tokens_at(*size_of(size)) for size in rows['size']])
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
    axis.set_xticks(ticks['tokens'], labels, fontsize='x-small', rotation=45)
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    if not rows.empty:
        add_legend(axis, len(looks))
