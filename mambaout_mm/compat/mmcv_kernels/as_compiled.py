"""How every operator computes: without autograd, without autocast, in float32 at least."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor


def as_compiled(function: Callable) -> Callable:
    """Run ``function`` as compiled code runs: neither autograd nor autocast looks inside.

    Autocast would take the matrix products within torchvision's deformable convolutions to half
    precision. The device is that of the first argument.
    """

    @functools.wraps(function)
    def run(first: Tensor, *args: object, **kwargs: object) -> Tensor | None:
        with torch.no_grad(), torch.autocast(first.device.type, enabled=False):
            return function(first, *args, **kwargs)

    return run


def widened(*tensors: Tensor) -> list[Tensor]:
    """Cast the tensors to their common dtype, and to float32 at least."""
    dtype = functools.reduce(torch.promote_types, (t.dtype for t in tensors), torch.float32)
    return [t.to(dtype) for t in tensors]
