"""How an operator is being called: exported, by its definition, under autocast."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .torch_versions import get_autocast_dtype, is_autocast_enabled, is_exporting

_by_definition = False
_without_results = False


def exporting() -> bool:
    """Whether a graph is being made that other programs are to run, in plain operators.

    True under ``torch.export``, ``torch.onnx.export`` and ``torch.jit.trace``, which MMEngine's
    count of operations uses; False under ``torch.compile``. Before PyTorch 2.7 the first is taken
    for ``torch.compile``.
    """
    return is_exporting() or torch.jit.is_tracing()


@contextmanager
def references() -> Iterator[None]:
    """Let every operator run its ``reference.py``, which is slow and obviously right.

    It serves to check a model against its definition, forward and backward, in any dtype.
    """
    global _by_definition
    before, _by_definition = _by_definition, True
    try:
        yield
    finally:
        _by_definition = before


def by_definition() -> bool:
    """Whether :func:`references` is in force, or forward-mode differentiation.

    A registered operator cannot have a forward-mode derivative in PyTorch, and code below autograd
    would drop a dual tensor's tangent without a word.
    """
    return _by_definition or forward_ad._current_level >= 0


@contextmanager
def counting() -> Iterator[None]:
    """Let scans return zeros at once: a count of operations needs their shapes alone."""
    global _without_results
    before, _without_results = _without_results, True
    try:
        yield
    finally:
        _without_results = before


def without_results() -> bool:
    """Whether :func:`counting` is in force."""
    return _without_results


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which autocast would compute a Linear of ``x``; ``x.dtype`` where it is off."""
    device = x.device.type
    if x.dtype == torch.float64 or not is_autocast_enabled(device):
        return x.dtype
    return get_autocast_dtype(device)
