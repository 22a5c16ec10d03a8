"""Parameters and multiply-accumulates of each backbone, beside what its authors print."""

import csv
import functools
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from mmengine.model import BaseModule
from torch import Tensor

from mambaout_mm.compat.flop_counter import SCAN, scan_flops, scan_in_pairs
from mambaout_mm.measure.complexity import build_model, count_by_operator, prepare_for_counting

from .catalogue import (
    CONTROL,
    ENTRIES,
    PYRAMID,
    WHOLE_MODELS,
    Entry,
    build_backbone,
    build_without_pyramid,
    maps_of,
    whole_config,
)
from .published import published_results
from .records import NAN, Record

CLASSIFIED = (224, 224)
SIZES = (CLASSIFIED, (800, 1280), (512, 2048))
# What MambaOut's tables leave out and VMamba's do not: with it UperNet over MambaOut-T takes 939.0,
# without 938.2, printed 938; so for all nine models of table 3 whose heads are counted here.
LEFT_OUT = ('batch_norm', 'upsample_', 'adaptive_avg_pool')
AS_IN_PAPER = 'MACs without BatchNorm and resizing'
IN_PAIRS = 'MACs, scans in pairs'
RECORDED = Path(__file__).with_name('costs.csv')
PAPER = 'arXiv 2405.07992'
PUBLISHED_METHODS = {'Mask R-CNN': '1x', 'UperNet': '160k'}


class Count(NamedTuple):
    """Cost of a model or a part.

    Attributes:
        params (int): Number of parameters.
        macs (int): Multiply-accumulates by the project's rule (:mod:`.complexity`).
        left_out (int): Those among them that MambaOut's tables leave out.
        in_pairs (int): Multiply-accumulates where a scan's are counted as everything else's, an
            addition with its multiplication (:func:`.flop_counter.scan_in_pairs`).
    """

    params: int
    macs: int
    left_out: int
    in_pairs: int

    def __add__(self, other: 'Count') -> 'Count':
        return Count(*(a + b for a, b in zip(self, other, strict=True)))


class Cost(NamedTuple):
    """Cost of a backbone, alone or in a whole model, at one size.

    Attributes:
        model (str): 'backbone', or of ``WHOLE_MODELS``.
        size (str): Of the image, as in '800x1280'.
        count (Count, optional): None where it cannot be computed.
        note (str): Why not. Defaults to ''.
    """

    model: str
    size: str
    count: Count | None
    note: str = ''


def count_costs(entry: Entry, sizes: Sequence[tuple[int, int]] = SIZES) -> list[Cost]:
    """Count a backbone alone, and in Mask R-CNN and UperNet.

    Args:
        entry (Entry): The backbone.
        sizes (Sequence[tuple[int, int]]): Heights and widths for the backbone alone; at 224x224, as
            classifiers, plain networks are counted without their pyramid. Defaults to 224x224,
            800x1280 and 512x2048.

    Returns:
        list[Cost]: For each size, then for each whole model.
    """
    backbone = build_backbone(entry)
    params = sum(p.numel() for p in backbone.parameters())
    channels, strides = maps_of(backbone)
    fits = strides == PYRAMID
    whole_sizes = [size for _, size in WHOLE_MODELS.values()] if fits else []
    own = {}
    for size in dict.fromkeys((*sizes, *whole_sizes)):
        # A classifier has no pyramid
        counted = build_without_pyramid(entry) if size == CLASSIFIED else backbone
        own[size] = _count(counted, size, params)
    costs = [Cost('backbone', _text(size), own[size]) for size in sizes]
    for model, (_, size) in WHOLE_MODELS.items():
        if fits:
            costs.append(Cost(model, _text(size), own[size] + count_heads(model, channels)))
        else:
            why = f'not computed: maps at strides {strides}, not {PYRAMID}'
            costs.append(Cost(model, _text(size), None, why))
    return costs


@functools.cache
def recorded_costs() -> dict[str, list[Cost]]:
    """Costs of the catalogue's backbones as they were counted before, by backbone.

    ``benchmarks/record_costs.py`` writes them; :func:`check_recorded` counts again.
    """
    costs: dict[str, list[Cost]] = {}
    with RECORDED.open(newline='') as file:
        for row in csv.DictReader(file):
            numbers = [row[field] for field in Count._fields]
            count = Count(*map(int, numbers)) if all(numbers) else None
            cost = Cost(row['model'], row['size'], count, row['note'])
            costs.setdefault(row['backbone'], []).append(cost)
    return costs


def known_costs(entry: Entry) -> list[Cost] | None:
    """Recorded costs of a backbone; None if it is not of the catalogue."""
    return recorded_costs().get(entry.name) if entry in (*ENTRIES, CONTROL) else None


def cost_records(entry: Entry, costs: list[Cost], published: pd.DataFrame) -> Iterator[Record]:
    """Costs of a backbone beside what its authors print.

    Args:
        entry (Entry): The backbone.
        costs (list[Cost]): Of :func:`count_costs` or :func:`known_costs`.
        published (pd.DataFrame): Of :func:`.published.published_results`.

    Yields:
        Record: 'params' and 'MACs' for each model and size, and the MACs by other rules.
    """
    common = dict(section='cost', backbone=entry.name, mixer=entry.mixer, origin='computed')
    alone = [cost for cost in costs if cost.model == 'backbone']
    if alone:
        # Published classifiers have a head and no output norms: another number.
        yield Record(
            **common,
            quantity='params',
            value=alone[0].count.params / 1e6,
            unit='M',
            note='with its output norms',
        )
    for cost in costs:
        row = _published_beside(entry, cost, published)
        whole = cost.model != 'backbone'
        fields = common | dict(model=cost.model)
        if cost.count is None:
            missing = fields | dict(value=NAN, note=cost.note)
            yield Record(**missing, quantity='params', unit='M')
            yield Record(**missing, quantity='MACs', unit='G', size=cost.size)
            yield Record(**missing, quantity=IN_PAIRS, unit='G', size=cost.size)
            continue
        count = cost.count
        if whole:
            params = _beside(count.params / 1e6, row.get('params_m'), row)
            yield Record(**fields, **params, quantity='params', unit='M')
        counted = {'MACs': count.macs}
        if whole and count.left_out and row.get('source', '').startswith(PAPER):
            counted[AS_IN_PAPER] = count.macs - count.left_out
        for quantity, macs in counted.items():
            found = _beside(macs / 1e9, row.get('macs_g'), row)
            yield Record(**fields, **found, quantity=quantity, unit='G', size=cost.size)
        yield Record(
            **fields,
            quantity=IN_PAIRS,
            value=count.in_pairs / 1e9,
            unit='G',
            size=cost.size,
            note='not published',
        )


def _published_beside(entry: Entry, cost: Cost, published: pd.DataFrame) -> dict:
    """The published row that a cost stands beside; its 'reason' where there is a wrong one only."""
    if cost.model == 'backbone':
        if cost.size != _text(CLASSIFIED):
            return {}
        return _published_row(entry, published, 'ImageNet-1K', '300e')
    if cost.model == 'UperNet' and entry.other_heads:
        return dict(reason=entry.other_heads)
    return _published_row(entry, published, cost.model, PUBLISHED_METHODS[cost.model])


def _count(module: torch.nn.Module, size: tuple[int, int], params: int) -> Count:
    scans_in_pairs = []

    def scan(inputs: list[Any], outputs: list[Any]) -> int:
        scans_in_pairs.append(scan_in_pairs(inputs, outputs))
        return scan_flops(inputs, outputs)

    by_operator = count_by_operator(module, torch.zeros(1, 3, *size), scan)
    macs = sum(by_operator.values())
    left_out = sum(count for name, count in by_operator.items() if name.startswith(LEFT_OUT))
    in_pairs = macs - by_operator.get(SCAN.rpartition(':')[2], 0) + sum(scans_in_pairs)
    return Count(params, macs, left_out, in_pairs)


@functools.cache
def count_heads(model: str, channels: tuple[int, ...]) -> Count:
    """Cost of everything behind the backbone, for maps of these widths.

    Args:
        model (str): Of ``WHOLE_MODELS``.
        channels (tuple[int, ...]): Of the maps at strides 4, 8, 16 and 32.
    """
    cfg = whole_config(model, channels)
    size = WHOLE_MODELS[model][1]
    cfg.model.backbone = dict(type=RandomMaps, channels=channels)
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'Default ``avg_non_ignore``')  # of a loss
        whole = build_model(cfg)
    params = sum(p.numel() for p in whole.parameters())
    return _count(prepare_for_counting(whole, size), size, params)


class RandomMaps(BaseModule):
    """Maps of given widths at strides 4 to 32, which cost nothing."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(
            torch.randn(x.shape[0], c, math.ceil(x.shape[2] / s), math.ceil(x.shape[3] / s))
            for c, s in zip(self.channels, PYRAMID, strict=True)
        )


def _published_row(entry: Entry, published: pd.DataFrame, method: str, schedule: str) -> dict:
    rows = published[
        (published['backbone'] == entry.published)
        & (published['method'] == method)
        & (published['schedule'] == schedule)
    ]
    return rows.iloc[0].to_dict() if len(rows) else {}


def _beside(value: float, printed: float | None, row: dict) -> dict:
    """A computed value and its published one, as arguments of a Record."""
    if printed is None or math.isnan(printed):
        return dict(value=value, note=row.get('reason', 'not published'))
    return dict(
        value=value,
        published=printed,
        difference=100 * (value / printed - 1),
        source=row['source'],
        note=row['note'],
    )


def _text(size: tuple[int, int]) -> str:
    return f'{size[0]}x{size[1]}'


def check_recorded(frame: pd.DataFrame, entries: Iterable[Entry]) -> list[str]:
    """Recorded costs (:func:`recorded_costs`) that are not what was counted just now.

    Args:
        frame (pd.DataFrame): Of cost records of :func:`count_costs`.
        entries (Iterable[Entry]): The backbones in question.

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
    rows = frame[(frame['section'] == 'cost')]
    failed = rows[rows['value'].isna() & ~rows['note'].str.startswith('not computed')]
    wrong = [f'{row["backbone"]}: {row["note"]}' for row in failed.to_dict('records')]
    rows = rows[rows['model'].isin(WHOLE_MODELS) & rows['published'].notna()]
    as_in_paper = set(
        rows[rows['quantity'] == AS_IN_PAPER][['backbone', 'model']].itertuples(
            index=False, name=None
        )
    )
    if rows.empty:
        wrong.append('nothing to check: no cost of these backbones in a whole model is published')
    for row in rows.to_dict('records'):
        strict = row['backbone'].startswith('MambaOut')
        replaced = row['quantity'] == 'MACs' and (row['backbone'], row['model']) in as_in_paper
        if (strict and replaced) or (not strict and row['quantity'] == AS_IN_PAPER):
            continue
        percent = 1 if row['backbone'].startswith('VMamba') else 2
        # Printed as integers.
        allowed = 0.5 if strict else percent / 100 * row['published']
        words = 'rounding' if strict else f'{percent} %'
        if not abs(row['value'] - row['published']) <= allowed:
            wrong.append(
                f'{row["backbone"]}, {row["model"]}: {row["quantity"]} {row["value"]:.2f} '
                f'{row["unit"]}, published {row["published"]:g} ({row["source"]}), apart by more '
                f'than {words}'
            )
    return wrong
