"""The tables of a report: what stands in each cell, from where, and why one is empty."""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import pandas as pd

Row = dict[str, Any]
MINUS, DASH = '\u2212', '\u2013'
KEYS = ('section', 'model', 'quantity', 'setting', 'size')  # of a record beside its backbone

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


class Column(NamedTuple):
    """Where a column's numbers come from, the heading it shares with neighbours, and its own."""

    origin: str
    group: str
    title: str
    small: str = ''


class Table(NamedTuple):
    """A row of cells for each backbone, and numbered notes."""

    name: str
    columns: list[Column]
    rows: list[tuple[str, str, list[Cell]]]  # backbone, mixer, a cell for each column
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


def number(value: float) -> str:
    """Four significant digits, all of those before the point: '43.13', '1,179', '0.0123'."""
    if math.isinf(value):
        return '∞' if value > 0 else f'{MINUS}∞'
    text = f'{value:,.0f}' if abs(value) >= 1000 else f'{value:.4g}'
    return text.replace('-', MINUS, 1) if text.startswith('-') else text


def key(value: float) -> str:
    """What JavaScript's Number reads, which does not know 'inf'."""
    return repr(float(value)).replace('inf', 'Infinity')


def signed(value: float) -> str:
    """A difference in percent, with its sign: '+0.2', '0.0'."""
    return f'+{percent(value)}' if value > 0 else percent(value + 0.0)


def percent(value: float) -> str:
    """At least one decimal, as accuracies are printed: '46.0', '45.12'."""
    text = number(value)
    return text if '.' in text or math.isinf(value) else f'{text}.0'


def reason(row: Row) -> str:
    """Why a record has no value."""
    return row['note'] or WITHOUT_A_NUMBER[row['origin']]


def empty(why: str) -> Cell:
    """A cell without a number. A long reason is cut at its colon; the tooltip has all of it."""
    short = why if len(why) <= 40 else why.split(': ')[0][:40]
    return Cell(DASH, '', short, why)


class Rows:
    """The records of a comparison, by what they say."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self.all: list[Row] = frame.to_dict('records')
        self.by_key = {self.key_of(**row): row for row in reversed(self.all)}  # the first one wins
        compared = [row for row in self.all if row['section'] not in ('published', 'runs')]
        # Those compared here, in the order in which they come, with their mixers.
        self.mixers = {row['backbone']: '' for row in compared}
        self.mixers |= {row['backbone']: row['mixer'] for row in compared if row['mixer']}
        # Failures of more than one point: by section, and of backbones that have nothing at all.
        broken = [row for row in compared if failed(row) and not row['size']]
        self.failures = list(dict.fromkeys((row['backbone'], row['note']) for row in broken))
        alive = {row['backbone'] for row in compared if not math.isnan(row['value'])}
        self._why = {('', row['backbone']): row['note'] for row in broken}
        self._why = {key: note for key, note in self._why.items() if key[1] not in alive}
        self._why |= {(row['section'], row['backbone']): row['note'] for row in broken}

    @staticmethod
    def key_of(
        section: str,
        backbone: str,
        model: str,
        quantity: str,
        setting: str = '',
        size: str = '',
        **_: object,
    ) -> tuple[str, ...]:
        """What tells a record from all others."""
        return section, backbone, model, quantity, setting, size

    def of(self, section: str) -> list[Row]:
        """The records of a section."""
        return [row for row in self.all if row['section'] == section]

    def cell(self, origin: str, show: Callable[[Row], Cell], **what: str) -> Cell:
        """The cell of a record, or why there is none.

        Args:
            origin (str): Of the column, for the reason.
            show (Callable): Makes a cell of a record that has a value.
            **what: Arguments of :meth:`key_of`.
        """
        row = self.by_key.get(self.key_of(**what))
        if row is None:
            backbone = what['backbone']
            why = self._why.get((what['section'], backbone)) or self._why.get(('', backbone))
            return empty(why or WITHOUT_A_NUMBER[origin])
        if 'whole image' in row['note'] and not math.isfinite(row['value']):
            return Cell('whole image', 'Infinity')
        return empty(reason(row)) if math.isnan(row['value']) else show(row)


def failed(row: Row) -> bool:
    """Whether a record only says that a point, or all of a section, did not run."""
    whole = row['quantity'] in ('', 'all')
    return math.isnan(row['value']) and (whole or row['note'].startswith('failed'))


def plain(row: Row) -> Cell:
    """The number, and its spread where it has one."""
    if row['quantity'].startswith('exponent'):
        return Cell(with_error(row), key(row['value']), '', row['note'])
    text = percent(row['value']) if row['unit'] == '%' else number(row['value'])
    return Cell(text, key(row['value']), spread(row), row['note'])


def with_error(row: Row) -> str:
    """'0.95 ± 0.02', of a number and one standard error."""
    return f'{row["value"]:.2f} ± {row["high"] - row["value"]:.2f}'


def spread(row: Row) -> str:
    """'1.2 to 1.4', or '' where a record has none."""
    if math.isnan(row['low']) or math.isnan(row['high']):
        return ''
    return f'{number(row["low"])} to {number(row["high"])}'


class Notes:
    """Numbers for what is said below a table, each text once."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def number(self, *parts: str) -> int:
        """Of the note made of these parts; 0 if all of them are empty."""
        text = '; '.join(filter(None, parts))
        if not text:
            return 0
        if text not in self.texts:
            self.texts.append(text)
        return self.texts.index(text) + 1


def pivot(
    rows: Rows,
    records: Iterable[Row],
    name: str,
    heading: Callable[[Row], tuple[str, str]],
    show: Callable[[Row], Cell] = plain,
    notes: Notes | None = None,
) -> Table | None:
    """A row for each backbone and a column for each model, quantity, setting and size.

    Args:
        rows (Rows): Where the cells come from.
        records (Iterable[Row]): Those that get a column.
        name (str): Of the table.
        heading (Callable): Gives a record's shared heading and its own.
        show (Callable): Makes a cell. Defaults to the number and its spread.
        notes (Notes, optional): Those that ``show`` adds. Defaults to None.

    Returns:
        Table, optional: None where there are no records.
    """
    columns: dict[tuple[str, ...], Column] = {}
    for row in records:
        if not failed(row):
            key = tuple(row[name] for name in KEYS)
            columns.setdefault(key, Column(row['origin'], *heading(row)))
    if not columns:
        return None
    groups = list(dict.fromkeys(column[:2] for column in columns.values()))
    order = sorted(columns, key=lambda key: groups.index(columns[key][:2]))
    lines = []
    for backbone, mixer in rows.mixers.items():
        cells = []
        for key in order:
            what = dict(zip(KEYS, key, strict=True))
            cells.append(rows.cell(columns[key].origin, show, backbone=backbone, **what))
        lines.append((backbone, mixer, cells))
    return Table(name, [columns[key] for key in order], lines, notes.texts if notes else [])


def cost(rows: Rows) -> Table | None:
    """Parameters and MACs, with the published ones below them."""
    notes = Notes()

    def show(row: Row) -> Cell:
        caveat = '' if row['note'] == 'not published' else row['note']
        if math.isnan(row['published']):
            printed, source, mark = 'not published', '', ''
        else:
            printed, source = f'published {number(row["published"])}', row['source']
            mark = 'with-published'
            if not math.isnan(row['difference']):
                printed += f' ({signed(round(row["difference"], 2))}\u00a0%)'
        note = notes.number(source, caveat)
        return Cell(number(row['value']), key(row['value']), printed, row['note'], note, mark)

    def heading(row: Row) -> tuple[str, str]:
        size = f' at {row["size"]}' if row['size'] and row['quantity'] == 'MACs' else ''
        return row['model'], f'{row["quantity"]}, {row["unit"]}{size}'

    return pivot(rows, rows.of('cost'), 'cost', heading, show, notes)


def sequence(rows: Rows) -> Table | None:
    """Tokens over 6D at each stage and size, and where that reaches 1."""

    def show(row: Row) -> Cell:
        if row['quantity'] != 'tokens / 6D':
            return plain(row)
        what = rows.key_of(**{**row, 'quantity': 'tokens'})
        small = f'{number(rows.by_key[what]["value"])} tokens' if what in rows.by_key else ''
        mark = 'long' if row['value'] > 1 else ''
        small = ': '.join(filter(None, (mark, small)))
        return Cell(number(row['value']), key(row['value']), small, row['note'], 0, mark)

    def heading(row: Row) -> tuple[str, str]:
        at = f' at {row["size"]}' if row['size'] else ''
        unit = f', {row["unit"]}' if row['unit'] else ''
        return f'{row["quantity"]}{at}{unit}', row['setting']

    records = [row for row in rows.of('sequence') if row['quantity'] != 'tokens']
    return pivot(rows, records, 'sequence', heading, show)


def receptive_field(rows: Rows) -> Table | None:
    """What each stage can see by its layers, and what it looks at."""

    def heading(row: Row) -> tuple[str, str]:
        at = f' at {row["size"]}' if row['size'] else ''
        return f'{row["quantity"]}{at}, {row["unit"] or "px"}', row['setting']

    return pivot(rows, rows.of('receptive field'), 'receptive-field', heading)


def exponents(rows: Rows) -> Table | None:
    """Slopes of the growth curves."""
    records = [row for row in rows.of('growth') if row['quantity'].startswith('exponent')]
    return pivot(rows, records, 'exponents', lambda row: (row['quantity'], row['setting']))


def not_measured(rows: Rows) -> list[tuple[str, str, str]]:
    """What the growth curves lack: of which backbones, which points, why."""
    sizes: dict[tuple[str, str, str], dict[str, None]] = {}
    for row in rows.of('growth'):
        if math.isnan(row['value']) and row['size']:
            what = f'{row["quantity"]}, {row["setting"]}'
            sizes.setdefault((row['backbone'], what, reason(row)), {})[row['size']] = None
    names: dict[tuple[str, str], list[str]] = {}
    for (backbone, what, why), at in sizes.items():
        names.setdefault((f'{what}, at {", ".join(at)}', why), []).append(backbone)
    return [(', '.join(backbones), what, why) for (what, why), backbones in names.items()]


def size_order(size: str) -> int:
    """Pixels of an image, from '800x1280'."""
    height, width = (int(side) for side in size.split('x'))
    return height * width


def largest_size_of_all(records: Iterable[Row]) -> str:
    """The largest size at which every backbone that has any value has one; '' if there is none."""
    sizes: dict[str, set[str]] = {}
    for row in records:
        if not math.isnan(row['value']):
            sizes.setdefault(row['backbone'], set()).add(row['size'])
    common = set.intersection(*sizes.values()) if sizes else set()
    return max(common, key=size_order, default='')


def runs(rows: Rows) -> list[tuple[Row, Cell]]:
    """The user's own trainings, as they come."""
    return [
        (row, empty(reason(row)) if math.isnan(row['value']) else plain(row))
        for row in rows.of('runs')
    ]


def records_table(rows: Rows) -> list[tuple[Row, Cell, Cell]]:
    """Every record with the cells of its value and of the published one beside it."""
    lines = []
    for row in rows.all:
        value = empty(reason(row)) if math.isnan(row['value']) else plain(row)
        beside = Cell('', '')
        if row['origin'] == 'computed' and row['section'] == 'cost':
            beside = empty('not published')
        if not math.isnan(row['published']):
            beside = Cell(number(row['published']), key(row['published']))
            if not math.isnan(row['difference']):
                beside = beside._replace(small=f'{signed(round(row["difference"], 2))} %')
        lines.append((row, value, beside))
    return lines
