"""The networks of a probe: token mixers in one body at one cost, and any registered backbone."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from mambaout_mm.backbones import MambaOut
from mambaout_mm.backbones.gated_blocks import in_stages
from mambaout_mm.comparison.catalogue import build_backbone, entries_of
from mambaout_mm.comparison.sections.sequence import receptive_fields
from mambaout_mm.measure.complexity import count_macs
from mambaout_mm.measure.twins import matched_twin

from .report import Candidate


def mixers_in(
    arch: dict[str, Any], mixers: Sequence[str], stages: Sequence[int], size: int
) -> list[Candidate]:
    """MambaOut's body with each token mixer, at the cost that it has with convolutions.

    Args:
        arch (dict): Numbers of MambaOut.
        mixers (Sequence[str]): Out of ``MIXERS``.
        stages (Sequence[int]): Those with the mixer, from 1; the others have convolutions.
        size (int): Height and width of the images.

    Raises:
        UserError: If a mixer cannot be had at that cost.
    """
    candidates = []
    for name in mixers:
        mixer = in_stages(name, stages)
        ratio = matched_twin(arch, mixer, (size, size)).expansion_ratio
        twin = dict(arch, expansion_ratio=ratio)
        candidates.append(candidate(name, partial(MambaOut, twin, mixer=mixer), size))
    return candidates


def registered(names: Sequence[str], size: int) -> list[Candidate]:
    """Backbones by the names that `tools/compare.py` takes.

    Raises:
        UserError: If a name is unknown.
    """
    return [
        candidate(entry.name.replace('/', '-'), partial(build_backbone, entry, seed=None), size)
        for entry in entries_of(list(names))
    ]


def candidate(name: str, build: Callable[[], nn.Module], size: int) -> Candidate:
    """Count a backbone and see how far it sees."""
    model = build().eval()
    fields = receptive_fields(model)
    return Candidate(
        name,
        build,
        params=sum(parameter.numel() for parameter in model.parameters()),
        macs=count_macs(model, torch.zeros(1, 3, size, size)),
        theoretical_px=float('nan') if fields is None else max(fields.values()),
    )
