"""What `tools/compare.py` shows and writes: progress, tables on the screen, files in a folder."""

from functools import partial
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table as ScreenTable

from mambaout_mm.files import noted, write_csv, write_text

from .api import run_comparison
from .markdown import escaped, table_in_markdown
from .options import Options
from .page import render
from .pictures import save_picture
from .records import COLUMNS
from .result import Comparison
from .sections import SECTIONS
from .summary import summary
from .tables import ORIGINS, Table


def compare_and_write(options: Options, started: float) -> bool:
    """Compare, print, and write table.csv, table.md, report.html and the pictures.

    Args:
        options (Options): What to compare, and how; ``out`` is the folder. With ``count_anew``,
            costs are compared with the published and the recorded ones.
        started (float): When the budget began, by ``time.perf_counter``.

    Returns:
        bool: Whether something failed or could not be written, or a checked cost disagrees.

    Raises:
        UserError: If a section or a run does not exist, or the folder cannot be written to.
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

        comparison = run_comparison(options, progress, started)
        progress('writing tables and pictures', 0.99)
        files, not_written = write_files(comparison, options.out)
    show(comparison, console)
    if comparison.reused:
        console.print(
            f'{comparison.reused} results were there from an earlier run: delete '
            f'{options.out / "results.jsonl"} to start anew',
            markup=False,
        )
    print_lines(console, comparison.remade)
    console.print(f'written: {", ".join(map(str, files))}', markup=False, soft_wrap=True)
    failures = [*failures_of(comparison.frame), *comparison.unwritten, *not_written]
    print_lines(console, failures)
    if not options.count_anew:
        return bool(failures)
    wrong = [sentence for section in SECTIONS for sentence in section.check(comparison)]
    print_lines(console, [f'check: {sentence}' for sentence in wrong])
    if not wrong:
        console.print('check: all parameters and MACs are as published')
    return bool(wrong or failures)


def print_lines(console: Console, lines: list[str]) -> None:
    """Print texts of others as they are."""
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def failures_of(frame: pd.DataFrame) -> list[str]:
    """A sentence for each failure of a backbone; a point that time or memory lacks is none."""
    rows = frame[frame['value'].isna() & frame['note'].str.startswith('failed')]
    pairs = dict.fromkeys(rows[['backbone', 'note']].itertuples(index=False, name=None))
    return [f'{backbone}: {note}' for backbone, note in pairs]


def write_files(comparison: Comparison, folder: Path) -> tuple[list[Path], list[str]]:
    """Write table.csv, table.md, report.html and the pictures.

    Returns:
        tuple[list[Path], list[str]]: The files, and a sentence for each that cannot be written.
    """
    rows = comparison.rows.all
    page, markdown = render(comparison), markdown_page(comparison)
    writers = {
        'table.csv': lambda path: write_csv(path, rows, COLUMNS),
        'table.md': lambda path: write_text(path, markdown),
        'report.html': lambda path: write_text(path, page),
    }
    for section in SECTIONS:
        for name, picture in section.pictures(comparison):
            writers[f'{name}.png'] = partial(save_picture, picture)
    written: list[Path] = []
    failures: list[str] = []
    for name, write in writers.items():
        with noted(failures):
            write(folder / name)
            written.append(folder / name)
    return written, failures


def show(comparison: Comparison, console: Console) -> None:
    """The summary on the screen, a table for each origin of its numbers, and lines of sections."""
    for table in summary(comparison):
        for origin in dict.fromkeys(column.origin for column in table.columns):
            console.print(screen_table(table, origin))
        for number, note in enumerate(table.notes, start=1):
            console.print(f'[{number}] {note}', markup=False, highlight=False)
    for section in SECTIONS:
        for line in section.screen_lines(comparison):
            console.print(line, markup=False, highlight=False, soft_wrap=True)


def screen_table(table: Table, origin: str) -> ScreenTable:
    """The columns of the summary whose numbers have one origin."""
    screen = ScreenTable(title=f'Summary: {ORIGINS[origin]}', title_justify='left')
    screen.add_column('backbone', no_wrap=True)
    chosen = [i for i, column in enumerate(table.columns) if column.origin == origin]
    for i in chosen:
        screen.add_column(table.columns[i].text('\n'), justify='right')
    for backbone, _, cells in table.rows:
        screen.add_row(escape(backbone), *(escape(cells[i].all_text) for i in chosen))
    return screen


def markdown_page(comparison: Comparison) -> str:
    """Every table of the comparison in Markdown."""
    machine = comparison.machine.items()
    described = ', '.join(f'{key}: {value}' for key, value in machine if value != '')
    parts = ['# Comparison', escaped(described)]
    for table in summary(comparison):
        parts += ['## Summary', *table_in_markdown(table)]
    for section in SECTIONS:
        parts += section.markdown(comparison)
    return '\n\n'.join(parts) + '\n'
