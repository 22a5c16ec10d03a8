"""What the figures of several sections share: what plotly.js draws, colours, axes, tooltips."""

import html
import math
import textwrap
from collections.abc import Iterable
from typing import Any, NamedTuple

import plotly.graph_objects as go

from .tables import number_text

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


def figure_spec(traces: list[Any], **layout: Any) -> dict[str, Any]:
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


def tooltip(text: str, width: int = 44) -> str:
    """Text for a tooltip: escaped, in lines short enough for a phone."""
    return '<br>'.join(
        html.escape(line, quote=False)
        for line in textwrap.wrap(text, width, break_on_hyphens=False)
    )


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
        ticktext=[number_text(x) if x < 1000 else f'{x / 1000:g}k' for x in inside],
    )


def specs(figures: Iterable[Figure]) -> dict[str, Any]:
    """By id, what the page's script needs to draw."""
    return {figure.name: dict(**figure.spec, views=figure.views) for figure in figures}
