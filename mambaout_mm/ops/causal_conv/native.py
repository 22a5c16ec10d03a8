"""The causal convolution with SiLU in C, on a CPU: ``causal_conv.c``.

Tensors are float32 or bfloat16, all of one dtype; arithmetic is float32.
"""

import ctypes

import torch
from torch import Tensor

from ..native import DTYPES, in_huge_pages, kernels
from ..native.arguments import fields

CHUNK = 128  # steps of a task: CHUNK of causal_conv.c
MOST_TAPS = 8  # likewise


def forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Output (N, G, L, E), contiguous."""
    y = in_huge_pages(torch.empty_like(x, memory_format=torch.contiguous_format))
    _run('causal_conv_forward', x, weight, bias, y=y)
    return y


def backward(
    grad_y: Tensor, x: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias; that of x is contiguous."""
    taps, chunks = weight.shape[-1], -(-x.shape[2] // CHUNK)
    grad_x = in_huge_pages(torch.empty_like(x, memory_format=torch.contiguous_format))
    sums = x.new_empty(x.shape[0] * chunks, taps + 1, len(bias), dtype=torch.float32)
    _run('causal_conv_backward', x, weight, bias, grad_y=grad_y, grad_x=grad_x, sums=sums)
    sums = sums.sum(0).to(weight.dtype)  # (k + 1, G * E)
    return grad_x, sums[:-1].t().unsqueeze(1), sums[-1]


class _Steps(ctypes.Structure):
    """``struct steps`` of causal_conv.c."""

    _fields_ = fields('data', 'batch group time')


class _CausalConv(ctypes.Structure):
    """``struct causal_conv`` of causal_conv.c."""

    _fields_ = (
        *fields('', 'batches groups length channels size dtype chunk threads'),
        *((name, _Steps) for name in ('x', 'y', 'grad_y', 'grad_x')),
        *fields('weight bias sums', ''),
    )


def _run(
    kernel: str,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    sums: Tensor | None = None,
    **others: Tensor,
) -> None:
    """Call a kernel with the tensors that it reads and writes, by their names in causal_conv.c."""
    weight = weight[:, 0].t().float().contiguous()  # (k, G * E)
    bias = bias.float().contiguous()
    tensors = {name: _channels_innermost(t) for name, t in dict(x=x, **others).items()}
    arguments = _CausalConv(
        *x.shape,
        len(weight),
        DTYPES[x.dtype],
        CHUNK,
        torch.get_num_threads(),
        **{name: _Steps(t.data_ptr(), *t.stride()[:3]) for name, t in tensors.items()},
        weight=weight.data_ptr(),
        bias=bias.data_ptr(),
        sums=None if sums is None else sums.data_ptr(),
    )
    if getattr(kernels(), kernel)(ctypes.byref(arguments)):
        raise RuntimeError(f'{kernel} was compiled for other sizes than causal_conv/native.py has')


def _channels_innermost(x: Tensor) -> Tensor:
    """``x`` as the kernels read it: one step's channels side by side."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()
