"""The tables that sections make of records: cells, columns, number formats, why a cell is empty."""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import pandas as pd

Row = dict[str, Any]
MINUS, DASH = '\u2212', '\u2013'
# What tells a column from all others: a record's key without its backbone.
KEYS = ('section', 'model', 'quantity', 'setting', 'size')
COMPARED = ('computed', 'measured')  # origins of numbers of the backbones that are compared here

ORIGINS = {
    'computed': 'computed from the models',
    'measured': 'measured on this machine',
    'published': 'published by the authors',
    'run': 'your own trainings',
}
WITHOUT_A_NUMBER = {
    'computed': 'not computed',
    'measured': 'not measured',
    'published': 'not published',
    'run': 'not evaluated',
}


class Cell(NamedTuple):
    """What a cell shows.

    Attributes:
        text (str): The number for people; '–' where there is none.
        key (str): What it is sorted by; '' sorts last.
        small (str): A smaller line below; for an empty cell the short reason.
        title (str): Tooltip; for an empty cell the whole reason.
        note (int): Number of its note below the table; 0 if it has none.
        mark (str): CSS class. Defaults to ''.
    """

    text: str
    key: str
    small: str = ''
    title: str = ''
    note: int = 0
    mark: str = ''

    @property
    def all_text(self) -> str:
        """The number with the number of its note, and the smaller line below."""
        note = f' [{self.note}]' if self.note else ''
        return f'{self.text}{note}' + (f'\n{self.small}' if self.small else '')


class Column(NamedTuple):
    """Where a column's numbers come from, the heading it shares with neighbours, and its own."""

    origin: str
    group: str
    title: str
    small: str = ''

    def text(self, between: str) -> str:
        """All of the heading, with a text between its parts."""
        return between.join(filter(None, (self.group, self.title, self.small)))


class SummaryColumn(NamedTuple):
    """A column of the summary, and what gives the cell of a backbone in it."""

    column: Column
    cell_of: Callable[[str], Cell]


class Table(NamedTuple):
    """A row of cells for each backbone, and numbered notes.

    Attributes:
        name (str): The id of its element on the page.
        columns (list[Column]): Without those of the backbone and its mixer.
        rows (list[tuple[str, str, list[Cell]]]): Backbone, mixer and a cell for each column.
        notes (list[str]): The texts of the notes, the first of which has number 1.
    """

    name: str
    columns: list[Column]
    rows: list[tuple[str, str, list[Cell]]]
    notes: list[str]

    @property
    def groups(self) -> list[tuple[str, str, int]]:
        """Origin, heading and number of columns of each run of columns that share them."""
        groups: list[tuple[str, str, int]] = []
        for column in self.columns:
            if groups and groups[-1][:2] == column[:2]:
                groups[-1] = (*column[:2], groups[-1][2] + 1)
            else:
                groups.append((*column[:2], 1))
        return groups


def number_text(value: float) -> str:
    """Four significant digits, all of those before the point: '43.13', '1,179', '0.0123'."""
    if math.isinf(value):
        return '∞' if value > 0 else f'{MINUS}∞'
    text = f'{value:,.0f}' if abs(value) >= 1000 else f'{value:.4g}'
    return text.replace('-', MINUS, 1) if text.startswith('-') else text


def sort_key(value: float) -> str:
    """A number as JavaScript's Number reads it, which does not know 'inf'."""
    return repr(float(value)).replace('inf', 'Infinity')


def signed_text(value: float) -> str:
    """A difference in percent, with its sign: '+0.2', '0.0'."""
    return f'+{percent_text(value)}' if value > 0 else percent_text(value + 0.0)


def percent_text(value: float) -> str:
    """At least one decimal, as accuracies are printed: '46.0', '45.12'."""
    text = number_text(value)
    return text if '.' in text or math.isinf(value) else f'{text}.0'


def reason(row: Row) -> str:
    """Why a record has no value."""
    return row['note'] or WITHOUT_A_NUMBER[row['origin']]


def empty(why: str) -> Cell:
    """A cell without a number. A long reason is cut at its colon; the tooltip has all of it."""
    short = why if len(why) <= 40 else why.split(': ')[0][:40]
    return Cell(DASH, '', short, why)


class Rows:
    """The records of a comparison, as tables and figures look them up.

    Args:
        frame (pd.DataFrame): Of :func:`.records.to_frame`.

    Attributes:
        all (list[Row]): Every record as a dict.
        mixers (dict[str, str]): The mixer of each backbone that was compared here, in the order in
            which the backbones come; '' where it is not known.
        failures (list[tuple[str, str]]): Backbones that failed in a section, and why; a failure at
            one image size is none of them.
    """

    def __init__(self, frame: pd.DataFrame) -> None:
        self.all: list[Row] = frame.to_dict('records')
        # Of records with the same key the first one is shown.
        self._by_key = {key_of(row): row for row in reversed(self.all)}
        compared = [row for row in self.all if row['origin'] in COMPARED]
        self.mixers = {row['backbone']: '' for row in compared}
        self.mixers |= {row['backbone']: row['mixer'] for row in compared if row['mixer']}
        failures = [row for row in compared if failed(row) and not row['size']]
        self.failures = list(dict.fromkeys((row['backbone'], row['note']) for row in failures))
        self._failed_in_section = {
            (row['section'], row['backbone']): row['note'] for row in failures
        }
        with_numbers = {row['backbone'] for row in compared if not math.isnan(row['value'])}
        self._failed_everywhere = {
            row['backbone']: row['note'] for row in failures if row['backbone'] not in with_numbers
        }

    def of(self, section: str) -> list[Row]:
        """The records of a section."""
        return [row for row in self.all if row['section'] == section]

    def find(self, row: Row, **changes: str) -> Row | None:
        """The record whose key is that of another one with some changes; None if there is none."""
        return self._by_key.get(key_of(row | changes))

    def cell(self, row: Row, backbone: str, show: Callable[[Row], Cell]) -> Cell:
        """The cell of a backbone in the column of a record, or why there is no number.

        Args:
            row (Row): A record of any backbone, which says what the column is of.
            backbone (str): Whose number is looked for.
            show (Callable): Makes a cell of a record that has a value.
        """
        found = self.find(row, backbone=backbone)
        if found is None:
            why = self._failed_in_section.get((row['section'], backbone))
            why = why or self._failed_everywhere.get(backbone)
            return empty(why or WITHOUT_A_NUMBER[row['origin']])
        return empty(reason(found)) if math.isnan(found['value']) else show(found)

    def column(self, row: Row) -> Callable[[str], Cell]:
        """A function from a backbone to its plain cell in the column of a record."""
        return lambda backbone: self.cell(row, backbone, plain)


def key_of(row: Row) -> tuple[str, ...]:
    """What tells a record from all others."""
    return (row['backbone'], *(row[name] for name in KEYS))


def failed(row: Row) -> bool:
    """Whether a record only says that a point, or all of a section, did not run."""
    all_of_section = row['quantity'] in ('', 'all')
    return math.isnan(row['value']) and (all_of_section or row['note'].startswith('failed'))


def plain(row: Row) -> Cell:
    """The cell of a record's number, with its spread where it has one."""
    if row['quantity'].startswith('exponent'):
        return Cell(with_error(row), sort_key(row['value']), '', row['note'])
    text = percent_text(row['value']) if row['unit'] == '%' else number_text(row['value'])
    return Cell(text, sort_key(row['value']), spread(row), row['note'])


def with_error(row: Row) -> str:
    """'0.95 ± 0.02', of a number and one standard error."""
    return f'{row["value"]:.2f} ± {row["high"] - row["value"]:.2f}'


def spread(row: Row) -> str:
    """'1.2 to 1.4', or '' where a record has none."""
    if math.isnan(row['low']) or math.isnan(row['high']):
        return ''
    return f'{number_text(row["low"])} to {number_text(row["high"])}'


class Notes:
    """Numbers for what is said below a table, each text once."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def number(self, *parts: str) -> int:
        """The number of the note made of these parts; 0 if all of them are empty."""
        text = '; '.join(filter(None, parts))
        if not text:
            return 0
        if text not in self.texts:
            self.texts.append(text)
        return self.texts.index(text) + 1


def plain_or_empty(row: Row) -> Cell:
    """The cell of a record's number, or of the reason why it has none."""
    return empty(reason(row)) if math.isnan(row['value']) else plain(row)


def pivot(
    rows: Rows,
    records: Iterable[Row],
    name: str,
    heading: Callable[[Row], tuple[str, str]],
    show: Callable[[Row], Cell] = plain,
    notes: Notes | None = None,
) -> list[Table]:
    """A row for each backbone and a column for each model, quantity, setting and size.

    Args:
        rows (Rows): Where the cells come from.
        records (Iterable[Row]): Those that get a column.
        name (str): Of the table.
        heading (Callable): Gives a record's shared heading and its own.
        show (Callable): Makes a cell. Defaults to the number and its spread.
        notes (Notes, optional): Those that ``show`` adds. Defaults to None.

    Returns:
        list[Table]: One table; none where there are no records.
    """
    first_rows: dict[tuple[str, ...], Row] = {}  # of each column
    for row in records:
        if not failed(row):
            first_rows.setdefault(tuple(row[name] for name in KEYS), row)
    if not first_rows:
        return []
    columns = [(row, Column(row['origin'], *heading(row))) for row in first_rows.values()]
    groups = list(dict.fromkeys(column[:2] for _, column in columns))
    columns.sort(key=lambda pair: groups.index(pair[1][:2]))
    lines = [
        (backbone, mixer, [rows.cell(row, backbone, show) for row, _ in columns])
        for backbone, mixer in rows.mixers.items()
    ]
    return [Table(name, [column for _, column in columns], lines, notes.texts if notes else [])]
