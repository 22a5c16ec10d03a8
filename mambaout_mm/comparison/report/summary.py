"""The first table of a report: what decides, a row for each backbone."""

import math
from collections.abc import Callable, Iterator, Mapping

import pandas as pd

from .tables import (
    KEYS,
    Cell,
    Column,
    Notes,
    Row,
    Rows,
    Table,
    empty,
    failed,
    key,
    largest_size_of_all,
    percent,
    plain,
)

CellOf = Callable[[str], Cell]


def summary(rows: Rows, published: pd.DataFrame | None, names: Mapping[str, str]) -> Table | None:
    """What decides, one row for each backbone.

    Args:
        rows (Rows): All records.
        published (pd.DataFrame, optional): As from ``published_results``; None leaves it out.
        names (Mapping[str, str]): From a compared backbone's name to the published one.
    """
    columns = [*_cost_columns(rows), *_growth_columns(rows), *_erf_columns(rows)]
    notes = Notes()
    if published is not None:
        columns += _published_columns(published, names, notes)
    if not columns or not rows.mixers:
        return None
    lines = [
        (backbone, mixer, [cell_of(backbone) for _, cell_of in columns])
        for backbone, mixer in rows.mixers.items()
    ]
    return Table('summary', [column for column, _ in columns], lines, notes.texts)


def _of_key(rows: Rows, row: Row) -> CellOf:
    """Of a backbone, the cell of the number that a record is for another one."""
    what = {name: row[name] for name in KEYS}
    return lambda backbone: rows.cell(row['origin'], plain, backbone=backbone, **what)


def _cost_columns(rows: Rows) -> Iterator[tuple[Column, CellOf]]:
    found = [row for row in rows.of('cost') if not failed(row)]
    for model, quantity in (
        ('backbone', 'params'),
        ('backbone', 'MACs'),
        ('Mask R-CNN', 'MACs'),
        ('UperNet', 'MACs'),
    ):
        same = [row for row in found if (row['model'], row['quantity']) == (model, quantity)]
        if same:
            small = f'{model} at {same[0]["size"]}' if quantity == 'MACs' else model
            column = Column('computed', '', f'{quantity}, {same[0]["unit"]}', small)
            yield column, _of_key(rows, same[0])


def _growth_columns(rows: Rows) -> Iterator[tuple[Column, CellOf]]:
    """Time of inference and memory of training: what one waits for, and what has to fit."""
    points = [row for row in rows.of('growth') if not failed(row)]
    # Where nothing could be measured, its column says why.
    found = [row for row in points if not math.isnan(row['value'])] or points
    for quantities, backward in (
        (('time',), False),
        (('exponent of time',), False),
        (('peak memory', 'kept for the backward pass'), True),
    ):
        present = [q for q in quantities if any(row['quantity'] == q for row in found)]
        same = [row for row in found if row['quantity'] in present[:1]]
        same.sort(key=lambda row: ('backward' in row['setting']) != backward)  # stable
        same = [row for row in same if row['setting'] == same[0]['setting']]
        if same and same[0]['size']:
            size = largest_size_of_all(same) or same[0]['size']
            same = [row for row in same if row['size'] == size]
        if same:
            row = same[0]
            title = ', '.join(filter(None, (row['quantity'], row['unit'])))
            small = f'{row["setting"]}, {row["size"]}' if row['size'] else row['setting']
            yield Column('measured', '', title, small), _of_key(rows, row)


def _erf_columns(rows: Rows) -> Iterator[tuple[Column, CellOf]]:
    """Of each backbone's last stage; not all have four."""
    last: dict[str, Row] = {}
    for row in rows.of('receptive field'):
        if row['quantity'].startswith('side holding 50 %') and not failed(row):
            last[row['backbone']] = max(
                row, last.get(row['backbone'], row), key=lambda row: row['setting']
            )
    if not last:
        return
    one = next(iter(last.values()))

    def cell_of(backbone: str) -> Cell:
        what = {name: last.get(backbone, one)[name] for name in KEYS}
        return rows.cell('measured', plain, backbone=backbone, **what)

    small = f'side holding 50 % of the gradient, last stage, {one["size"]}'
    yield Column('measured', '', f'receptive field, {one["unit"]}', small), cell_of


def _published_columns(
    published: pd.DataFrame, names: Mapping[str, str], notes: Notes
) -> Iterator[tuple[Column, CellOf]]:
    for column, title, small, method, schedule in (
        ('top1', 'top-1, %', 'ImageNet-1K, 300 epochs', 'ImageNet-1K', '300e'),
        ('ap_box', 'box AP, %', 'COCO, Mask R-CNN 1x', 'Mask R-CNN', '1x'),
        ('miou_ss', 'mIoU, %', 'ADE20K, UperNet 160k, single-scale', 'UperNet', '160k'),
    ):
        own = published[published[column].notna()]

        def cell_of(
            backbone: str,
            own: pd.DataFrame = own,
            column: str = column,
            recipe: tuple[str, str] = (method, schedule),
        ) -> Cell:
            name = names.get(backbone, '')
            found = own[own['backbone'] == name].to_dict('records')
            same = [row for row in found if (row['method'], row['schedule']) == recipe]
            if same:
                row = same[0]
                value = row[column]
                note = notes.number(f'{name} in {row["source"]}', row['caveat'])
                return Cell(percent(value), key(value), '', notes.texts[note - 1], note)
            others = [f'{row["method"]}, {row["schedule"]}' for row in found]
            return empty(
                f'not published: only with {"; ".join(others)}' if others else 'not published'
            )

        yield Column('published', '', title, small), cell_of
