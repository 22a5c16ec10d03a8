"""Tables in Markdown."""

import html
from collections.abc import Iterable, Sequence

from .tables import ORIGINS, Table


def table_in_markdown(table: Table) -> list[str]:
    """A table and its notes, a paragraph each; headings say where a column's numbers come from."""
    heads = [f'{column.text("; ")} ({ORIGINS[column.origin]})' for column in table.columns]
    rows = [
        (backbone, mixer, *(cell.all_text for cell in cells))
        for backbone, mixer, cells in table.rows
    ]
    notes = [f'\\[{number}\\] {escaped(note)}' for number, note in enumerate(table.notes, start=1)]
    return [rows_in_markdown(('backbone', 'mixer', *heads), rows), *notes]


def rows_in_markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Headings and texts as a table."""
    lines = [f'| {" | ".join(map(escaped, texts))} |' for texts in (heads, *rows)]
    lines.insert(1, '|' + '---|' * len(heads))
    return '\n'.join(lines)


def escaped(text: str) -> str:
    """A text as Markdown shows it in a cell, without being taken for a table, HTML or a link."""
    for mark in '\\`|[]':
        text = text.replace(mark, f'\\{mark}')
    return '<br>'.join(html.escape(text, quote=False).splitlines())
