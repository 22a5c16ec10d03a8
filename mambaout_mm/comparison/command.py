"""What `tools/compare.py` does: a progress display, tables on the screen, files in a folder."""

import html
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table as ScreenTable

from mambaout_mm.files import noted, write_csv, write_text

from .api import Comparison, run_comparison
from .cost import check_costs, check_recorded
from .pictures import draw_pictures
from .published import published_results
from .records import COLUMNS
from .report import render
from .report.summary import summary
from .report.tables import (
    ORIGINS,
    Cell,
    Column,
    Rows,
    Table,
    cost,
    exponents,
    receptive_field,
    runs,
    sequence,
)


def run(out: Path, check: bool, **arguments: Any) -> bool:
    """Compare, print and write.

    Args:
        out (Path): Folder for table.csv, table.md, report.html, the pictures and the results that
            let an interrupted comparison go on.
        check (bool): Whether to count costs anew and compare them with the published and the
            recorded ones.
        **arguments: Of :func:`.api.run_comparison`.

    Returns:
        bool: Whether something failed or could not be written, or a checked cost disagrees.

    Raises:
        UserError: If an argument names nothing that exists, or the folder cannot be written to.
    """
    console = Console()
    with Progress(
        TextColumn('{task.description}'),
        BarColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    ) as display:
        task = display.add_task('', total=1)

        def progress(text: str, share: float) -> None:
            display.update(task, description=escape(text), completed=share)

        found = run_comparison(out=out, progress=progress, count_anew=check, **arguments)
        progress('writing tables and pictures', 0.99)
        files, unwritten = write_files(found, out)
    show(found, console)
    if found.reused:
        console.print(
            f'{found.reused} results were there from an earlier run: delete '
            f'{out / "results.jsonl"} to start anew',
            markup=False,
        )
    for sentence in found.remade:
        console.print(sentence, highlight=False, markup=False, soft_wrap=True)
    console.print(f'written: {", ".join(map(str, files))}', markup=False, soft_wrap=True)
    failures = [*failures_of(found.frame), *found.unwritten, *unwritten]
    for sentence in failures:
        console.print(sentence, highlight=False, markup=False, soft_wrap=True)
    if not check:
        return bool(failures)
    wrong = [*check_costs(found.frame), *check_recorded(found.frame, found.entries)]
    for sentence in wrong:
        console.print(f'check: {sentence}', highlight=False, markup=False, soft_wrap=True)
    if not wrong:
        console.print('check: all parameters and MACs are as published')
    return bool(wrong or failures)


def failures_of(frame: pd.DataFrame) -> list[str]:
    """A sentence for each failure of a backbone; a point that time or memory lacks is none."""
    rows = frame[frame['value'].isna() & frame['note'].str.startswith('failed')]
    pairs = dict.fromkeys(rows[['backbone', 'note']].itertuples(index=False, name=None))
    return [f'{backbone}: {note}' for backbone, note in pairs]


def write_files(found: Comparison, out: Path) -> tuple[list[Path], list[str]]:
    """Write table.csv, table.md, report.html and the pictures.

    Returns:
        tuple[list[Path], list[str]]: The files, and a sentence for each that cannot be written.
    """
    published = published_results()
    names = {entry.name: entry.published for entry in found.entries}
    rows = found.frame.to_dict('records')
    page = render(found.frame, published, found.erf, found.machine, names)
    written: list[Path] = []
    failures: list[str] = []
    for name, write in (
        ('table.csv', lambda path: write_csv(path, rows, COLUMNS)),
        ('table.md', lambda path: write_text(path, markdown_page(found))),
        ('report.html', lambda path: write_text(path, page)),
    ):
        with noted(failures):
            write(out / name)
            written.append(out / name)
    place = found.machine
    where = f'{place["device"]}, {place["threads"]} threads, torch {place["torch"]}'
    written += draw_pictures(found.frame, published, found.erf, out, where, failures)
    return written, failures


def tables_of(found: Comparison) -> list[tuple[str, Table]]:
    """The report's tables with their headings; those without a row are left out."""
    rows = Rows(found.frame)
    names = {entry.name: entry.published for entry in found.entries}
    with_published = (found.frame['section'] == 'published').any()
    tables = [
        ('Summary', summary(rows, published_results() if with_published else None, names)),
        ('Cost', cost(rows)),
        ('Sequence', sequence(rows)),
        ('Receptive field', receptive_field(rows)),
        ('Growth', exponents(rows)),
    ]
    return [(title, table) for title, table in tables if table is not None]


def show(found: Comparison, console: Console) -> None:
    """The summary on the screen, a small table for each origin of its numbers, and the runs."""
    for title, table in tables_of(found)[:1]:
        for origin in dict.fromkeys(column.origin for column in table.columns):
            screen = ScreenTable(title=f'{title}: {ORIGINS[origin]}', title_justify='left')
            screen.add_column('backbone', no_wrap=True)
            chosen = [i for i, column in enumerate(table.columns) if column.origin == origin]
            for i in chosen:
                column = table.columns[i]
                screen.add_column(_heading(column, '\n'), justify='right')
            for backbone, _, cells in table.rows:
                screen.add_row(escape(backbone), *(escape(_text(cells[i])) for i in chosen))
            console.print(screen)
        for number, note in enumerate(table.notes, start=1):
            console.print(f'[{number}] {note}', markup=False, highlight=False)
    for row, cell in runs(Rows(found.frame)):
        what = f'{row["backbone"]}, {row["model"]}, {row["quantity"]}, {row["setting"]}'
        number = _text(cell).replace('\n', ', ')
        line = f'{what}: {number} ({row["note"]})'
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _heading(column: Column, between: str) -> str:
    return between.join(filter(None, (column.group, column.title, column.small)))


def _text(cell: Cell) -> str:
    note = f' [{cell.note}]' if cell.note else ''
    return f'{cell.text}{note}' + (f'\n{cell.small}' if cell.small else '')


def markdown_page(found: Comparison) -> str:
    """Every table of the comparison in Markdown."""
    machine = ', '.join(f'{key}: {value}' for key, value in found.machine.items() if value != '')
    parts = ['# Comparison', _cell(machine)]
    for title, table in tables_of(found):
        parts += [f'## {title}', markdown(table)]
        parts += [f'\\[{number}\\] {_cell(note)}' for number, note in enumerate(table.notes, 1)]
    own = runs(Rows(found.frame))
    if own:
        lines = ['| run | model | metric | of | value | note |', '|---|---|---|---|---|---|']
        lines += [
            '| '
            + ' | '.join(
                _cell(text)
                for text in (
                    row['backbone'],
                    row['model'],
                    row['quantity'],
                    row['setting'],
                    _text(cell),
                    row['note'],
                )
            )
            + ' |'
            for row, cell in own
        ]
        parts += ['## Your runs', '\n'.join(lines)]
    return '\n\n'.join(parts) + '\n'


def markdown(table: Table) -> str:
    """A table in Markdown; its headings say where each column's numbers come from."""
    heads = [f'{_heading(column, "; ")} ({ORIGINS[column.origin]})' for column in table.columns]
    lines = [
        '| ' + ' | '.join(_cell(text) for text in ('backbone', 'mixer', *heads)) + ' |',
        '|---|---|' + '---|' * len(heads),
    ]
    for backbone, mixer, cells in table.rows:
        texts = (backbone, mixer, *(_text(cell) for cell in cells))
        lines.append('| ' + ' | '.join(_cell(text) for text in texts) + ' |')
    return '\n'.join(lines)


def _cell(text: str) -> str:
    """A text as Markdown shows it in a cell, without being taken for a table, HTML or a link."""
    for mark in '\\`|[]':
        text = text.replace(mark, f'\\{mark}')
    return '<br>'.join(html.escape(text, quote=False).splitlines())
