"""Mamba's depthwise causal convolution along time and its SiLU, as one operator.

Paper: arXiv 2312.00752 (Mamba), section 3.4. It is one operator because a CPU pays for each pass
over memory, and because the backward pass can recompute what the SiLU was given.

``reference.py``  the definition, in PyTorch's operations
``native.py``     CPU, float32 and bfloat16: C kernels in ``causal_conv.c``
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .. import native as libraries
from ..modes import by_definition, compute_dtype, exporting
from ..torch_versions import is_compiling
from . import native
from .reference import causal_conv_silu_reference

__all__ = ['causal_conv_silu']


def causal_conv_silu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """SiLU of a depthwise causal convolution along the sequences of G groups of E channels.

    For each channel, with x zero before the first step::

        y_t = silu(bias + sum over j of weight_j * x_{t - k + 1 + j})

    Computes in the dtype of ``x``, or autocast's. Differentiable in every tensor, by C kernels
    once. For the backward pass these keep ``x``; their arithmetic is float32, and their results do
    not depend on the number of threads. Graphs that are compiled or exported have plain operators.

    Args:
        x (Tensor): (N, G, L, E). It is read in place if its channels are innermost in memory.
        weight (Tensor): (G * E, 1, k), as of an ``nn.Conv1d``.
        bias (Tensor): (G * E,).

    Returns:
        Tensor: (N, G, L, E); from C kernels contiguous.

    Raises:
        ValueError: If shapes do not fit together.
    """
    if exporting():
        return causal_conv_silu_reference(x, weight, bias)
    _check(x, weight, bias)
    if not _runs_in_c(x, weight, bias):
        return causal_conv_silu_reference(x, weight, bias)
    dtype = compute_dtype(x)
    return _InC.apply(x.to(dtype), weight.to(dtype), bias.to(dtype))


class _InC(torch.autograd.Function):
    """The C kernels, forward and backward."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return native.forward(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return native.backward(grad_y, *ctx.saved_tensors)


def _runs_in_c(x: Tensor, weight: Tensor, bias: Tensor) -> bool:
    """Whether the C kernels run, outside of exports. No other place decides this."""
    if is_compiling() or by_definition() or x.numel() == 0:
        return False
    dtypes = {compute_dtype(tensor) for tensor in (x, weight, bias)}
    return (
        x.device.type == 'cpu'
        and len(dtypes) == 1
        and dtypes <= libraries.DTYPES.keys()
        and weight.shape[-1] <= native.MOST_TAPS
        and libraries.kernels() is not None
    )


def _check(x: Tensor, weight: Tensor, bias: Tensor) -> None:
    width = x.shape[1] * x.shape[3] if x.dim() == 4 else None
    fits = weight.dim() == 3 and weight.shape[:2] == (width, 1) and weight.shape[2] > 0
    if not fits or bias.shape != (width,):
        raise ValueError(
            'causal_conv_silu takes x of shape (N, G, L, E), weight (G * E, 1, k) and bias '
            f'(G * E,); got {tuple(x.shape)}, {tuple(weight.shape)} and {tuple(bias.shape)}'
        )
