"""How an operator is being called: exported, under autocast."""

import torch
from torch import Tensor


def exporting() -> bool:
    """Whether a graph is being made that other programs are to run, in plain operators.

    True under ``torch.export``, ``torch.onnx.export`` and ``torch.jit.trace``, which MMEngine's
    count of operations uses; False under ``torch.compile``.
    """
    return torch.compiler.is_exporting() or torch.jit.is_tracing()


def compute_dtype(x: Tensor) -> torch.dtype:
    """What autocast would have a Linear of ``x`` compute in: ``x.dtype`` where it is off."""
    device = x.device.type
    if x.dtype == torch.float64 or not torch.is_autocast_enabled(device):
        return x.dtype
    return torch.get_autocast_dtype(device)
