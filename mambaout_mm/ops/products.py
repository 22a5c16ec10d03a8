"""Matrix products on a CPU by oneDNN, where PyTorch would take MKL.

PyTorch gives float32 products to MKL, which on processors of AMD is half as fast as oneDNN
(benchmarks/NOTES.md). bfloat16 goes to oneDNN anyway.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .modes import by_definition, exporting
from .torch_versions import is_autocast_enabled, is_compiling

_plain_linear = F.linear


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``F.linear`` by oneDNN where it can; below autograd."""
    if has_onednn(x.dtype):
        x = x.contiguous()  # of rows that lie apart oneDNN takes seconds
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, 'none', [], '')
    return _plain_linear(x, weight, bias)


def matmul(x: Tensor, matrix: Tensor) -> Tensor:
    """``x @ matrix``, by oneDNN where PyTorch would take MKL; below autograd."""
    if x.dtype == torch.float32 and has_onednn(x.dtype):
        x = x.contiguous()
        return torch.ops.mkldnn._linear_pointwise(x, matrix.t(), None, 'none', [], '')
    return x @ matrix


def matmul_over_rows(left: Tensor, right: Tensor) -> Tensor:
    """``left^T @ right`` over all rows, of (..., A) and (..., B): (A, B).

    In float32 by oneDNN, which takes half of MKL's time if the result has less rows than columns.
    """
    left, right = left.flatten(0, -2), right.flatten(0, -2)
    if left.dtype != torch.float32 or not has_onednn(left.dtype):
        return left.t() @ right
    # Of rows that lie apart oneDNN takes seconds.
    left, right = left.contiguous().t(), right.contiguous().t()
    if len(left) > len(right):
        return torch.ops.mkldnn._linear_pointwise(right, left, None, 'none', [], '').t()
    return torch.ops.mkldnn._linear_pointwise(left, right, None, 'none', [], '')


@contextmanager
def linear_layers_by_onednn() -> Iterator[None]:
    """Let the float32 linear layers of every network run by oneDNN on a CPU, ``nn.Linear`` too.

    For comparisons, in which no network is to have the faster library alone.
    """
    before, F.linear = F.linear, _linear
    try:
        yield
    finally:
        F.linear = before


@functools.cache
def has_onednn(dtype: torch.dtype) -> bool:
    """Whether this build and processor have the operator that Inductor takes for ``nn.Linear``."""
    return (
        dtype in (torch.float32, torch.bfloat16)
        and torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability().startswith('AVX512')
        and hasattr(torch.ops.mkldnn, '_linear_pointwise')
    )


class _Linear(torch.autograd.Function):
    """``F.linear`` of float32 by oneDNN, differentiable in any order."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        if torch.is_grad_enabled():  # for a second derivative
            grad_x = grad @ weight if of_x else None
            grad_weight = grad.flatten(0, -2).t() @ x.flatten(0, -2) if of_weight else None
        else:
            grad_x = matmul(grad, weight) if of_x else None
            grad_weight = matmul_over_rows(grad, x) if of_weight else None
        return grad_x, grad_weight, grad.flatten(0, -2).sum(0) if of_bias else None


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    takes_onednn = (
        not exporting()
        and x.dtype == weight.dtype == torch.float32
        and x.device.type == 'cpu'
        and x.dim() > 1
        and x.numel() > 0
        and has_onednn(torch.float32)
        and not is_autocast_enabled('cpu')
        and not is_compiling()
        and not by_definition()
    )
    return _Linear.apply(x, weight, bias) if takes_onednn else _plain_linear(x, weight, bias)
