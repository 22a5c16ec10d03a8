"""Parameters and multiply-accumulates of backbones, alone and in whole models.

Those of the catalogue's backbones are on record in ``costs.csv``.
"""

import csv
import functools
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

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
    Network,
    build_backbone,
    build_without_pyramid,
    maps_of,
    whole_config,
)
from .records import size_text

CLASSIFIED = (224, 224)
SIZES = (CLASSIFIED, (800, 1280), (512, 2048))
# What MambaOut's tables leave out and VMamba's do not: with it UperNet over MambaOut-T takes 939.0,
# without 938.2, printed 938; so for all nine models of table 3 whose heads are counted here.
LEFT_OUT = ('batch_norm', 'upsample_', 'adaptive_avg_pool')
RECORDED = Path(__file__).with_name('costs.csv')


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


def count_costs(entry: Network, sizes: Sequence[tuple[int, int]] = SIZES) -> list[Cost]:
    """Count a backbone alone, and in Mask R-CNN and UperNet.

    Args:
        entry (Network): The backbone.
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
    counts = {}
    for size in dict.fromkeys((*sizes, *whole_sizes)):
        # A classifier has no pyramid
        counted = build_without_pyramid(entry) if size == CLASSIFIED else backbone
        counts[size] = _count(counted, size, params)
    costs = [Cost('backbone', size_text(size), counts[size]) for size in sizes]
    for model, (_, size) in WHOLE_MODELS.items():
        if fits:
            costs.append(Cost(model, size_text(size), counts[size] + count_heads(model, channels)))
        else:
            why = f'not computed: maps at strides {strides}, not {PYRAMID}'
            costs.append(Cost(model, size_text(size), None, why))
    return costs


@functools.cache
def recorded_costs() -> dict[str, list[Cost]]:
    """Costs of the catalogue's backbones as they were counted before, by backbone.

    ``benchmarks/record_costs.py`` writes them; ``tools/compare.py --check`` counts again.
    """
    costs: dict[str, list[Cost]] = {}
    with RECORDED.open(newline='') as file:
        for row in csv.DictReader(file):
            numbers = [row[field] for field in Count._fields]
            count = Count(*map(int, numbers)) if all(numbers) else None
            cost = Cost(row['model'], row['size'], count, row['note'])
            costs.setdefault(row['backbone'], []).append(cost)
    return costs


def known_costs(entry: Network) -> list[Cost] | None:
    """Recorded costs of a backbone; None if it is not of the catalogue."""
    return recorded_costs().get(entry.name) if entry in (*ENTRIES, CONTROL) else None


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
