"""The report of a comparison: one HTML file that holds all it needs and opens without a network."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup
from plotly.offline import get_plotlyjs
from plotly.utils import PlotlyJSONEncoder

from ..erf import ErfMap
from ..published import gaps
from . import figures, gallery, tables
from .summary import summary
from .tables import DASH, ORIGINS, Rows, number

HERE = Path(__file__).parent
SECTIONS = {
    'cost': 'Cost',
    'sequence': 'Sequence length',
    'receptive field': 'Receptive field',
    'growth': 'Growth with the image',
    'published': 'Published accuracy',
}


def render(
    frame: pd.DataFrame,
    published: pd.DataFrame,
    erf: Sequence[ErfMap],
    machine: Mapping[str, Any],
    published_names: Mapping[str, str],
) -> str:
    """The page as HTML; the same for the same arguments.

    Args:
        frame (pd.DataFrame): Every record, as from :func:`.records.to_frame`. A section without
            records is not shown.
        published (pd.DataFrame): As from :func:`.published.published_results`; drawn if ``frame``
            has the section 'published'.
        erf (Sequence[ErfMap]): Images of the gallery.
        machine (Mapping[str, Any]): Where and when it was made, in the order in which to show it.
        published_names (Mapping[str, str]): From a compared backbone's name to the one in
            ``published``; one that is missing or '' has none.
    """
    rows = Rows(frame)
    shown = {name: title for name, title in SECTIONS.items() if rows.of(name)}
    growth = figures.growth_figures(rows)
    drawn, hypotheses = list(growth), []
    scatters, bars = [], None
    if 'published' in shown:
        table = gaps(published)
        hypotheses = hypotheses_of(table)
        bars = figures.gaps_figure(table)
        scatters = figures.published_figures(published)
        drawn += [bars, *scatters]
    return (
        environment()
        .get_template('page.html')
        .render(
            absent=[title.lower() for name, title in SECTIONS.items() if name not in shown],
            bars=bars,
            cost=tables.cost(rows),
            css=source('page.css'),
            erf=gallery.gallery(erf),
            erf_scale=gallery.erf_scale(),
            exponents=tables.exponents(rows),
            failures=rows.failures,
            figures_json=script_json(figures.specs(drawn)),
            growth=growth,
            hypotheses=hypotheses,
            js=source('page.js'),
            machine={
                key: shown_value(value) for key, value in machine.items() if value not in ('', None)
            },
            missing_points=tables.not_measured(rows),
            origins=ORIGINS,
            plotly=Markup(get_plotlyjs()),
            receptive_field=tables.receptive_field(rows),
            records=tables.records_table(rows),
            runs=tables.runs(rows),
            scatters=scatters,
            sequence=tables.sequence(rows),
            shown=shown,
            summary=summary(rows, published if 'published' in shown else None, published_names),
        )
    )


def environment() -> jinja2.Environment:
    """Of the template: every text is escaped, and a name that it lacks is an error."""
    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE, encoding='utf-8'),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.globals.update(spread=tables.spread, dash=DASH)
    return env


def source(name: str) -> Markup:
    """A file beside this one, for the page as it is."""
    return Markup((HERE / name).read_text(encoding='utf-8'))


def script_json(value: Any) -> Markup:
    """JSON that ends no script element, whatever its texts hold."""
    text = json.dumps(value, cls=PlotlyJSONEncoder, sort_keys=True)
    for char in '<>&':
        text = text.replace(char, f'\\u{ord(char):04x}')
    return Markup(text)


def shown_value(value: Any) -> str:
    """Of the machine's description."""
    if isinstance(value, (list, tuple)):
        return ', '.join(map(str, value))
    return number(value) if isinstance(value, float) else str(value)


def hypotheses_of(table: pd.DataFrame) -> list[tuple[str, str]]:
    """The paper's two hypotheses, each with what the published numbers say of it.

    Args:
        table (pd.DataFrame): As from :func:`.published.gaps`.
    """

    def points(quantities: tuple[str, ...]) -> str:
        gap = table[table['quantity'].isin(quantities)]['gap']
        ahead, behind = int((gap > 0).sum()), int((gap < 0).sum())
        return (
            f'of {len(gap)} published pairs MambaOut is ahead in {ahead} and behind in {behind}; '
            f'the gaps are {tables.signed(gap.min())} to {tables.signed(gap.max())}'
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
