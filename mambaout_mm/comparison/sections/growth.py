"""Growth with the image: time and memory at each size, and the exponent of time."""

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from matplotlib.figure import Figure as Picture
from torch import nn

from mambaout_mm.measure.failure import reason_of
from mambaout_mm.measure.growth import (
    Conditions,
    Point,
    Series,
    fit_exponent,
    measure_size,
    too_late,
)
from mambaout_mm.measure.parity import check_parity, whole_float32

from ..catalogue import Network, build_backbone
from ..figures import Figure
from ..growth_curves import draw_growth, growth_figures
from ..records import NAN, Record, size_of, size_text
from ..result import Comparison
from ..section import Section
from ..session import Session
from ..tables import Column, Notes, Row, Rows, SummaryColumn, Table, failed, pivot, reason

# Of the summary: time of inference and memory of training, what one waits for and what has to fit.
# Each column shows the first quantity that was measured, preferably with a backward pass or not.
IN_SUMMARY = (
    (('time',), False),
    (('exponent of time',), False),
    (('peak memory', 'kept for the backward pass'), True),
)


class GrowthSection(Section):
    """Time and memory at each size, as curves, and the exponents that are fitted to them."""

    name = 'growth'
    heading = 'Growth with the image'
    origin = 'measured'
    turn = 1  # the curves are what a budget that does not suffice must not lose
    early_in_summary = True
    template = """
<p>{{ tag('measured') }} Both axes are logarithmic: a straight line is a power, its slope the
exponent. Work in proportion to the image's area has slope 1, attention over all tokens tends to 2
(grey guides). All backbones share one axis, tokens at stride 16, whatever their own strides.</p>
<div class="figures">
{% for figure in figures %}
<div><h3>{{ figure.title }}</h3>{{ plot(figure) }}</div>
{% endfor %}
</div>
{% if missing_points %}
<h3>Points that are missing</h3>
<ul class="list small">
{% for backbones, what, why in missing_points %}
<li>{{ backbones }}: {{ what }}: {{ why }}</li>
{% endfor %}
</ul>
{% endif %}
{% for table in tables %}
<h3>Exponents</h3>
<p class="small">After ± is one standard error, of three to four points mostly: exponents that are
apart by a few of it are not known to differ.</p>
{{ table_of(table, 'Exponents') }}
{% endfor %}
"""

    def records(self, session: Session) -> list[Record]:
        with whole_float32():
            return list(_measure(session))

    def tables(self, comparison: Comparison) -> list[Table]:
        rows = comparison.rows
        fits = [row for row in rows.of(self.name) if row['quantity'].startswith('exponent')]
        return pivot(rows, fits, 'exponents', lambda row: (row['quantity'], row['setting']))

    def summary_columns(self, comparison: Comparison, notes: Notes) -> list[SummaryColumn]:
        points = [row for row in comparison.rows.of(self.name) if not failed(row)]
        # Where nothing could be measured, the column says why.
        points = [row for row in points if not math.isnan(row['value'])] or points
        columns = []
        for quantities, backward in IN_SUMMARY:
            row = _row_of_column(points, quantities, backward)
            if row is not None:
                title = ', '.join(filter(None, (row['quantity'], row['unit'])))
                small = ', '.join(filter(None, (row['setting'], row['size'])))
                column = Column(self.origin, '', title, small)
                columns.append(SummaryColumn(column, comparison.rows.column(row)))
        return columns

    def figures(self, comparison: Comparison) -> list[Figure]:
        rows = comparison.rows
        points = [row for row in rows.of(self.name) if row['size'] and not math.isnan(row['value'])]
        return growth_figures(points, rows.mixers)

    def context(self, comparison: Comparison) -> dict[str, Any]:
        return dict(missing_points=missing_points(comparison.rows))

    def pictures(self, comparison: Comparison) -> Iterator[tuple[str, Picture]]:
        frame = comparison.frame[comparison.frame['section'] == self.name]
        points = frame[(frame['size'] != '') & frame['value'].notna()]
        if len(points):
            machine = comparison.machine
            where = f'{machine["device"]}, {machine["threads"]} threads, torch {machine["torch"]}'
            fits = frame[frame['quantity'] == 'exponent of time']
            yield self.name, draw_growth(points, fits, where)


def _measure(session: Session) -> Iterator[Record]:
    options = session.options
    networks = list(_checked_networks(session))
    series_of = {
        passes: [Series(entry.name, model, wrong) for entry, model, wrong in networks]
        for passes in options.passes
    }
    for number, size in enumerate(options.sizes):
        for passes, all_series in series_of.items():
            done = number / len(options.sizes)
            session.progress(f'growth: {passes} at {size_text(size)}', done)
            conditions = Conditions(passes, options.dtype, options.device)
            yield from _records_at_size(session, all_series, size, conditions)
    for passes, all_series in series_of.items():
        conditions = Conditions(passes, options.dtype, options.device)
        for entry, series in zip(session.entries, all_series, strict=True):
            yield exponent_record(entry, series, conditions)


def _checked_networks(session: Session) -> Iterator[tuple[Network, nn.Module, str]]:
    """Every backbone on the device, and why it cannot be timed, or ''."""
    for number, entry in enumerate(session.entries):
        session.progress(f'growth: checking {entry.name}', number / len(session.entries))
        model, wrong = nn.Identity(), ''
        if time.perf_counter() > session.early_deadline:
            yield entry, model, too_late()
            continue
        try:
            model = build_backbone(entry)
            wrong = check_parity(model, session.options.device, session.options.dtype)
            model = model.to(session.options.device)
        except Exception as error:  # one that fails is a row, not an end
            wrong = reason_of(error)
        yield entry, model, wrong


def _records_at_size(
    session: Session, all_series: list[Series], size: tuple[int, int], conditions: Conditions
) -> list[Record]:
    made_of = dict(
        section='growth',
        entries=[entry._asdict() for entry in session.entries],
        code=session.code,
        size=size,
        conditions=conditions,
        machine=session.machine,
    )
    records = session.store.get(**made_of)
    if records is not None:
        for series in all_series:
            take_up(series, records)
        return records
    seconds_left = session.early_deadline - time.perf_counter()
    points = measure_size(all_series, size, conditions, seconds_left)
    records = list(growth_records(session.entries, all_series, points, size, conditions))
    # What is missing may be had with more time, or memory that others use now.
    if not any(math.isnan(record.value) for record in records):
        session.store.put(records, **made_of)
    return records


def growth_records(
    entries: list[Network],
    all_series: list[Series],
    points: Mapping[str, Point],
    size: tuple[int, int],
    conditions: Conditions,
) -> Iterator[Record]:
    """The records of every backbone at one size, or why it has none.

    Args:
        entries (list[Network]): The backbones.
        all_series (list[Series]): The series of each.
        points (Mapping[str, Point]): Of :func:`mambaout_mm.measure.growth.measure_size`.
        size (tuple[int, int]): Height and width.
        conditions (Conditions): Under which they were measured.

    Yields:
        Record: 'time', 'peak memory' and 'kept for the backward pass' of each backbone.
    """
    for entry, series in zip(entries, all_series, strict=True):
        at = dict(size=size_text(size))
        point = points.get(series.name)
        if point is None:
            yield _record(entry, 'time', 'ms', conditions, note=series.ended, **at)
            yield _record(entry, 'peak memory', 'MB', conditions, note=series.ended, **at)
            continue
        milliseconds = [1e3 * seconds for seconds in point.seconds]  # median and deciles
        found = dict(zip(('value', 'low', 'high'), milliseconds, strict=True))
        note = f'median and deciles of {point.rounds}, alternating with the others'
        yield _record(entry, 'time', 'ms', conditions, note=note, **found, **at)
        note = "by PyTorch's count, beside weights and image"
        found = dict(value=point.peak / 1e6)
        yield _record(entry, 'peak memory', 'MB', conditions, note=note, **found, **at)
        if point.kept is not None:
            found = dict(value=point.kept / 1e6)
            yield _record(entry, 'kept for the backward pass', 'MB', conditions, **found, **at)


def take_up(series: Series, records: Iterable[Record]) -> None:
    """Give a series what an earlier run measured at the next larger size."""
    own = {record.quantity: record for record in records if record.backbone == series.name}
    size = size_of(own['time'].size)
    series.add(size, own['time'].value / 1e3, 1e6 * own['peak memory'].value)


def exponent_record(entry: Network, series: Series, conditions: Conditions) -> Record:
    """The exponent of a series' time."""
    fit = fit_exponent(series.tokens, series.seconds)
    if fit is None:
        too_few = f'not fitted: {len(series.tokens)} sizes, four are needed'
        found = dict(note=series.ended or too_few)
    else:
        first, last = series.tokens[-fit.points], series.tokens[-1]
        found = dict(
            value=fit.exponent,
            low=fit.exponent - fit.error,
            high=fit.exponent + fit.error,
            note=f'fitted to {fit.points} sizes, {first} to {last} tokens; '
            'plus and minus one standard error',
        )
    return _record(entry, 'exponent of time', '', conditions, **found)


def _record(
    entry: Network,
    quantity: str,
    unit: str,
    conditions: Conditions,
    value: float = NAN,
    **fields: Any,
) -> Record:
    return Record(
        section='growth',
        backbone=entry.name,
        mixer=entry.mixer,
        quantity=quantity,
        setting=f'{conditions.passes}, {conditions.dtype}',
        value=value,
        unit=unit,
        origin='measured',
        **fields,
    )


def _row_of_column(points: list[Row], quantities: Iterable[str], backward: bool) -> Row | None:
    """The record that says what a column of the summary is of.

    It is of the first of the quantities and the first setting that there are, at the largest size
    that all backbones have.
    """
    measured = {row['quantity'] for row in points}
    quantity = next((name for name in quantities if name in measured), None)
    same = [row for row in points if row['quantity'] == quantity]
    if not same:
        return None
    preferred = [row for row in same if ('backward' in row['setting']) == backward] or same
    same = [row for row in same if row['setting'] == preferred[0]['setting']]
    size = largest_common_size(same) if same[0]['size'] else ''
    return next((row for row in same if row['size'] == size), same[0])


def largest_common_size(rows: Iterable[Row]) -> str:
    """The largest size at which every backbone that has any value has one; '' if there is none."""
    sizes: dict[str, set[str]] = {}
    for row in rows:
        if not math.isnan(row['value']):
            sizes.setdefault(row['backbone'], set()).add(row['size'])
    common = set.intersection(*sizes.values()) if sizes else set()
    return max(common, key=lambda size: math.prod(size_of(size)), default='')


def missing_points(rows: Rows) -> list[tuple[str, str, str]]:
    """Points that the curves lack: of which backbones, at which sizes, why."""
    sizes: dict[tuple[str, str, str], list[str]] = {}
    for row in rows.of('growth'):
        if math.isnan(row['value']) and row['size']:
            curve = f'{row["quantity"]}, {row["setting"]}'
            sizes.setdefault((row['backbone'], curve, reason(row)), []).append(row['size'])
    backbones: dict[tuple[str, str], list[str]] = {}
    for (backbone, curve, why), missing in sizes.items():
        points = f'{curve}, at {", ".join(dict.fromkeys(missing))}'
        backbones.setdefault((points, why), []).append(backbone)
    return [(', '.join(names), points, why) for (points, why), names in backbones.items()]
