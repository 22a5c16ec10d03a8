"""The page of a comparison: one HTML file that holds all it needs and opens without a network."""

import json
import math
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from plotly.offline import get_plotlyjs
from plotly.utils import PlotlyJSONEncoder

from .figures import Figure, specs
from .records import COLUMNS
from .result import Comparison
from .section import Section
from .sections import SECTIONS
from .summary import summary
from .tables import (
    DASH,
    ORIGINS,
    Cell,
    Row,
    Rows,
    empty,
    number_text,
    plain_or_empty,
    signed_text,
    sort_key,
    spread,
)

HERE = Path(__file__).parent
MACROS = "{% from 'macros.html' import cell, heading, plot, table_of, tag %}\n"
# The columns of records, the name of the backbone first; 'interval' is of low and high, and the
# difference stands with the published number.
PAGE_COLUMNS = tuple(
    'interval' if name == 'low' else name
    for name in dict.fromkeys(('backbone', *COLUMNS))
    if name not in ('mixer', 'high', 'difference')
)


def render(comparison: Comparison) -> str:
    """The page as HTML; the same for the same comparison.

    A section without records is not shown, unless it has something to say then.
    """
    env = environment()
    shown = [section for section in SECTIONS if section.shown(comparison)]
    figures = {section: section.figures(comparison) for section in shown}
    contents = [content_of(section, comparison, figures[section], env) for section in shown]
    return env.get_template('page.html').render(
        absent=[section.heading.lower() for section in SECTIONS if section not in shown],
        css=source('page.css'),
        failures=comparison.rows.failures,
        figures_json=script_json(specs(figure for section in shown for figure in figures[section])),
        js=source('page.js'),
        machine={
            key: machine_text(value)
            for key, value in comparison.machine.items()
            if value not in ('', None)
        },
        plotly=Markup(get_plotlyjs()),
        record_columns=PAGE_COLUMNS,
        records=record_cells(comparison.rows),
        sections=list(zip(shown, contents, strict=True)),
        summary=summary(comparison),
    )


def content_of(
    section: Section, comparison: Comparison, figures: list[Figure], env: jinja2.Environment
) -> Markup:
    """What stands below the heading of a section."""
    template = env.from_string(MACROS + section.template)
    tables = section.tables(comparison)
    content = template.render(tables=tables, figures=figures, **section.context(comparison))
    return Markup(content.strip())


def environment(folder: Path = HERE) -> jinja2.Environment:
    """For templates in a folder: all text is escaped, and a name that is not there is an error."""
    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder, encoding='utf-8'),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.globals.update(spread=spread, dash=DASH, origins=ORIGINS)
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


def machine_text(value: Any) -> str:
    """A value of the machine's description as text."""
    if isinstance(value, (list, tuple)):
        return ', '.join(map(str, value))
    return number_text(value) if isinstance(value, float) else str(value)


def record_cells(rows: Rows) -> list[dict[str, Any]]:
    """Every record as texts and cells by ``PAGE_COLUMNS``."""
    beside_published = {section.name for section in SECTIONS if section.beside_published}
    cells = []
    for row in rows.all:
        value = plain_or_empty(row)
        value = value._replace(small='' if value.key else value.small)
        published = published_cell(row, row['section'] in beside_published)
        shown = row | dict(value=value, interval=spread(row), published=published)
        cells.append({name: shown[name] for name in PAGE_COLUMNS})
    return cells


def published_cell(row: Row, expected: bool) -> Cell:
    """The published number beside a record's own, or that there is none where it is expected."""
    if math.isnan(row['published']):
        return empty('not published') if expected else Cell('', '')
    cell = Cell(number_text(row['published']), sort_key(row['published']))
    if math.isnan(row['difference']):
        return cell
    return cell._replace(small=f'{signed_text(round(row["difference"], 2))} %')
