"""Parameters and multiply-accumulates of each backbone, beside what its authors print."""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import pandas as pd

from ..catalogue import CONTROL, ENTRIES, WHOLE_MODELS, Network
from ..counting import CLASSIFIED, Cost, Count, count_costs, known_costs, recorded_costs
from ..published_results import PAPER, published_results
from ..records import NAN, Record, size_text
from ..result import Comparison
from ..section import Section
from ..session import Session
from ..tables import (
    Cell,
    Column,
    Notes,
    Row,
    SummaryColumn,
    Table,
    failed,
    number_text,
    pivot,
    signed_text,
    sort_key,
)

AS_IN_PAPER = 'MACs without BatchNorm and resizing'
IN_PAIRS = 'MACs, scans in pairs'
PUBLISHED_METHODS = {'Mask R-CNN': '1x', 'UperNet': '160k'}
# Columns of the summary: model and quantity.
IN_SUMMARY = (
    ('backbone', 'params'),
    ('backbone', 'MACs'),
    ('Mask R-CNN', 'MACs'),
    ('UperNet', 'MACs'),
)


class CostSection(Section):
    """Parameters and MACs, alone and in Mask R-CNN and UperNet."""

    name = 'cost'
    heading = 'Cost'
    early_in_summary = True
    beside_published = True
    template = """
<p>{{ tag('computed') }} The small line has what the authors print and how far ours is from it.
“MACs” follow the rule that authors print: products, attention, norms and resizing, and a scan at
9 L D N, which counts its multiplications and additions apart. “MACs, scans in pairs” count a pair
of them as one there, too, as everywhere else (4 L D N). “MACs without BatchNorm and resizing” are
what MambaOut's tables count.</p>
{% for table in tables %}{{ table_of(table, 'Cost') }}{% endfor %}
"""

    def records(self, session: Session) -> list[Record]:
        published = published_results()
        count_anew = session.options.count_anew
        # A check of half of the costs would be none
        deadline = math.inf if count_anew else session.deadline

        def count(entry: Network) -> list[Record]:
            return list(cost_records(entry, count_costs(entry), published))

        records = []
        for entry in session.entries:
            known = None if count_anew else known_costs(entry)
            if known:
                records += cost_records(entry, known, published)
            else:
                records += session.by_backbone(self.name, [entry], count, deadline=deadline)
        return records

    def tables(self, comparison: Comparison) -> list[Table]:
        """Parameters and MACs, with the published ones below them."""
        notes = Notes()

        def show(row: Row) -> Cell:
            caveat = '' if row['note'] == 'not published' else row['note']
            printed, source, mark = 'not published', '', ''
            if not math.isnan(row['published']):
                printed, source = f'published {number_text(row["published"])}', row['source']
                mark = 'with-published'
                if not math.isnan(row['difference']):
                    printed += f' ({signed_text(round(row["difference"], 2))}\u00a0%)'
            note = notes.number(source, caveat)
            value = row['value']
            return Cell(number_text(value), sort_key(value), printed, row['note'], note, mark)

        def heading(row: Row) -> tuple[str, str]:
            size = f' at {row["size"]}' if row['size'] and row['quantity'] == 'MACs' else ''
            return row['model'], f'{row["quantity"]}, {row["unit"]}{size}'

        rows = comparison.rows
        return pivot(rows, rows.of(self.name), self.name, heading, show, notes)

    def summary_columns(self, comparison: Comparison, notes: Notes) -> list[SummaryColumn]:
        found = [row for row in comparison.rows.of(self.name) if not failed(row)]
        columns = []
        for model, quantity in IN_SUMMARY:
            same = [row for row in found if (row['model'], row['quantity']) == (model, quantity)]
            if same:
                small = f'{model} at {same[0]["size"]}' if quantity == 'MACs' else model
                column = Column(self.origin, '', f'{quantity}, {same[0]["unit"]}', small)
                columns.append(SummaryColumn(column, comparison.rows.column(same[0])))
        return columns

    def check(self, comparison: Comparison) -> list[str]:
        return [
            *check_costs(comparison.frame),
            *check_recorded(comparison.frame, comparison.entries),
        ]


def cost_records(entry: Network, costs: list[Cost], published: pd.DataFrame) -> Iterator[Record]:
    """Costs of a backbone beside what its authors print.

    Args:
        entry (Network): The backbone.
        costs (list[Cost]): Of :func:`.counting.count_costs` or :func:`.counting.known_costs`.
        published (pd.DataFrame): Of :func:`.published_results.published_results`.

    Yields:
        Record: 'params' and 'MACs' for each model and size, and the MACs by other rules.
    """
    alone = next((cost for cost in costs if cost.model == 'backbone'), None)
    if alone:
        # Published classifiers have a head and no output norms: another number.
        params = dict(value=alone.count.params / 1e6, note='with its output norms')
        yield _record(entry, alone, 'params', params)
    for cost in costs:
        if cost.count is None:
            missing = dict(value=NAN, note=cost.note)
            for quantity in ('params', 'MACs', IN_PAIRS):
                yield _record(entry, cost, quantity, missing)
        else:
            row = _published_row_beside(entry, cost, published)
            yield from _records_of_count(entry, cost, cost.count, row)


def _records_of_count(
    entry: Network, cost: Cost, count: Count, row: dict[str, Any]
) -> Iterator[Record]:
    if cost.model != 'backbone':
        params = _with_published(count.params / 1e6, row.get('params_m'), row)
        yield _record(entry, cost, 'params', params)
    macs = _with_published(count.macs / 1e9, row.get('macs_g'), row)
    yield _record(entry, cost, 'MACs', macs)
    of_paper = cost.model != 'backbone' and row.get('source', '').startswith(PAPER)
    if of_paper and count.left_out:
        macs = _with_published((count.macs - count.left_out) / 1e9, row.get('macs_g'), row)
        yield _record(entry, cost, AS_IN_PAPER, macs)
    in_pairs = dict(value=count.in_pairs / 1e9, note='not published')
    yield _record(entry, cost, IN_PAIRS, in_pairs)


def _record(entry: Network, cost: Cost, quantity: str, fields: dict[str, Any]) -> Record:
    params = quantity == 'params'
    return Record(
        section='cost',
        backbone=entry.name,
        mixer=entry.mixer,
        model=cost.model,
        quantity=quantity,
        size='' if params else cost.size,
        unit='M' if params else 'G',
        origin='computed',
        **fields,
    )


def _published_row_beside(entry: Network, cost: Cost, published: pd.DataFrame) -> dict[str, Any]:
    """The published row that a cost stands beside; its 'reason' where there is a wrong one only."""
    if cost.model == 'backbone':
        if cost.size != size_text(CLASSIFIED):
            return {}
        return _published_row(entry, published, 'ImageNet-1K', '300e')
    if cost.model == 'UperNet' and entry.other_heads:
        return dict(reason=entry.other_heads)
    return _published_row(entry, published, cost.model, PUBLISHED_METHODS[cost.model])


def _published_row(entry: Network, published: pd.DataFrame, method: str, schedule: str) -> dict:
    rows = published[
        (published['backbone'] == entry.published)
        & (published['method'] == method)
        & (published['schedule'] == schedule)
    ]
    return rows.iloc[0].to_dict() if len(rows) else {}


def _with_published(value: float, printed: float | None, row: dict[str, Any]) -> dict[str, Any]:
    """A computed value and the published one, as fields of a record."""
    if printed is None or math.isnan(printed):
        return dict(value=value, note=row.get('reason', 'not published'))
    return dict(
        value=value,
        published=printed,
        difference=100 * (value / printed - 1),
        source=row['source'],
        note=row['note'],
    )


def check_recorded(frame: pd.DataFrame, entries: Iterable[Network]) -> list[str]:
    """Recorded costs (:func:`.counting.recorded_costs`) that are not what was counted just now.

    Args:
        frame (pd.DataFrame): Of cost records of :func:`.counting.count_costs`.
        entries (Iterable[Network]): The backbones in question.

    Returns:
        list[str]: A sentence for each number that differs.
    """
    keys = ['backbone', 'model', 'quantity', 'size']
    counted = frame[frame['section'] == 'cost'].set_index(keys)['value'].to_dict()
    published = published_results()
    wrong = []
    for entry in entries:
        if entry not in (*ENTRIES, CONTROL):
            continue
        for record in cost_records(entry, recorded_costs().get(entry.name, []), published):
            found = counted.get(tuple(getattr(record, key) for key in keys), NAN)
            same = found == record.value or (math.isnan(found) and math.isnan(record.value))
            if not same:
                wrong.append(
                    f'{entry.name}, {record.model}: {record.quantity} {record.size} counted '
                    f'{found:.6f}, recorded {record.value:.6f}; record the costs again by '
                    'benchmarks/record_costs.py'
                )
        if entry.name not in recorded_costs():
            wrong.append(f'{entry.name}: no costs are recorded; run benchmarks/record_costs.py')
    return wrong


def check_costs(frame: pd.DataFrame) -> list[str]:
    """Costs that are not what the papers print.

    MambaOut must agree with tables 2 and 3 of its paper to the rounding of what is printed, in
    parameters and in the MACs that these tables count; VMamba within 1 %, all others within 2 %, by
    the project's own rule.

    Args:
        frame (pd.DataFrame): Of cost records.

    Returns:
        list[str]: A sentence for each row that disagrees, or could not be computed.
    """
    rows = frame[frame['section'] == 'cost'].to_dict('records')
    wrong = [
        f'{row["backbone"]}: {row["note"]}'
        for row in rows
        if math.isnan(row['value']) and not row['note'].startswith('not computed')
    ]
    printed = [
        row for row in rows if row['model'] in WHOLE_MODELS and not math.isnan(row['published'])
    ]
    if not printed:
        wrong.append('nothing to check: no cost of these backbones in a whole model is published')
    counted_as_in_paper = {
        (row['backbone'], row['model']) for row in printed if row['quantity'] == AS_IN_PAPER
    }
    for row in printed:
        tolerance, words = _tolerance(row)
        of_mambaout = row['backbone'].startswith('MambaOut')
        # Of two counts MambaOut's must be that of its tables, those of others the project's own.
        if of_mambaout and (row['backbone'], row['model']) in counted_as_in_paper:
            other_count = 'MACs'
        else:
            other_count = '' if of_mambaout else AS_IN_PAPER
        apart = abs(row['value'] - row['published'])
        if row['quantity'] != other_count and not apart <= tolerance:
            wrong.append(
                f'{row["backbone"]}, {row["model"]}: {row["quantity"]} {row["value"]:.2f} '
                f'{row["unit"]}, published {row["published"]:g} ({row["source"]}), apart by more '
                f'than {words}'
            )
    return wrong


def _tolerance(row: Row) -> tuple[float, str]:
    """How far a cost may be from the published one, as a number and in words."""
    if row['backbone'].startswith('MambaOut'):
        return 0.5, 'rounding'  # printed as integers
    percent = 1 if row['backbone'].startswith('VMamba') else 2
    return percent / 100 * row['published'], f'{percent} %'
