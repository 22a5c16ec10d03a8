"""The gate of a Gated CNN block with its depthwise convolution, straight from fc1's output.

Paper: arXiv 2405.07992, algorithm 1. ``reference.py`` is the definition, ``cpu.py`` runs it with
PyTorch's operations and a weight gradient of its own, ``triton.py`` in fused kernels on CUDA.
"""

import functools
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, library

from ..modes import by_definition, compute_dtype, exporting
from . import cpu, reference

__all__ = ['backend', 'gated_conv']


def gated_conv(x: Tensor, weight: Tensor, bias: Tensor, hidden: int, activation: str) -> Tensor:
    """``act(g) * cat(i, dwconv(c))`` with ``g, i, c = split(x)`` along the last dimension.

    Computes in the dtype of ``x``, or autocast's, and sums in float32 at least. Differentiable in
    ``x``, ``weight`` and ``bias``, once; the backward pass keeps ``x`` alone and recomputes the
    convolution. Under ``torch.export``, ONNX export and ``torch.jit.trace`` the graph has plain
    operators.

    Args:
        x (Tensor): fc1's output, (N, H, W, 2 * hidden): the gate g, ``hidden`` wide, i, and c as
            wide as ``weight``. Strides are free but for the last one, which is to be 1.
        weight (Tensor): Of the depthwise convolution, (Cc, 1, k, k) with odd k and Cc at most
            ``hidden``; zeros of width k // 2 surround the map.
        bias (Tensor): Of the convolution, (Cc,).
        hidden (int): Width of the gate and of the result.
        activation (str): 'gelu' (exact) or 'silu'.

    Returns:
        Tensor: (N, H, W, hidden).

    Raises:
        ValueError: If shapes do not fit together or the activation is unknown.
        TypeError: If ``x`` is not floating point.
    """
    _check(x, weight, bias, hidden, activation)
    x = x.to(compute_dtype(x))
    if exporting() or by_definition():
        return reference.forward(x, weight, bias, hidden, activation)
    return torch.ops.mambaout_mm.gated_conv(x, weight, bias, hidden, activation)


def backend(x: Tensor) -> ModuleType:
    """The module whose ``forward`` and ``backward`` suit a tensor's device and dtype."""
    if x.device.type == 'cpu':
        return cpu
    # Triton's kernels do not compute in float64.
    if x.device.type == 'cuda' and x.dtype != torch.float64:
        return _triton() or reference
    return reference


@library.custom_op('mambaout_mm::gated_conv', mutates_args=())
def _forward_op(x: Tensor, weight: Tensor, bias: Tensor, hidden: int, activation: str) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        return backend(x).forward(x, weight, bias, hidden, activation).contiguous()


@_forward_op.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, hidden: int, activation: str) -> Tensor:
    return x.new_empty((*x.shape[:-1], hidden))


@library.custom_op('mambaout_mm::gated_conv_backward', mutates_args=())
def _backward_op(
    grad_y: Tensor, x: Tensor, weight: Tensor, bias: Tensor, hidden: int, activation: str
) -> tuple[Tensor, Tensor, Tensor]:
    with torch.autocast(x.device.type, enabled=False):
        *grads, _ = backend(x).backward(grad_y, x, weight, bias, hidden, activation, False)
    return tuple(grad.contiguous() for grad in grads)  # as the fake kernel promises


@_backward_op.register_fake
def _(grad_y: Tensor, *inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(tensor.new_empty(tensor.shape) for tensor in inputs[:3])


def _setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
    *tensors, ctx.hidden, ctx.activation = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
    grads = torch.ops.mambaout_mm.gated_conv_backward(
        grad_y, *ctx.saved_tensors, ctx.hidden, ctx.activation
    )
    return *grads, None, None


_forward_op.register_autograd(_backward, setup_context=_setup_context)


@functools.cache
def _triton() -> ModuleType | None:
    if find_spec('triton') is None:
        print_log(
            'gated_conv runs in plain PyTorch operations: Triton is not installed. The result is '
            'the same, the speed and memory are not; pip install triton',
            logger='current',
            level=30,
        )
        return None
    from . import triton

    return triton


def _check(x: Tensor, weight: Tensor, bias: Tensor, hidden: int, activation: str) -> None:
    if activation not in reference.ACTIVATIONS:
        known = ' or '.join(map(repr, reference.ACTIVATIONS))
        raise ValueError(f'gated_conv: activation is {known}, got {activation!r}')
    if x.dim() != 4 or x.shape[-1] != 2 * hidden:
        raise ValueError(
            f'gated_conv takes x of shape (N, H, W, {2 * hidden}) for hidden={hidden}, '
            f'got {tuple(x.shape)}'
        )
    square = weight.dim() == 4 and weight.shape[1] == 1 and weight.shape[2] == weight.shape[3]
    if not square or weight.shape[-1] % 2 == 0 or not 1 <= weight.shape[0] <= hidden:
        raise ValueError(
            f'gated_conv takes weight of shape (Cc, 1, k, k) with odd k and Cc from 1 to '
            f'{hidden}, got {tuple(weight.shape)}'
        )
    if bias.shape != weight.shape[:1]:
        raise ValueError(
            f'gated_conv: bias has shape {tuple(bias.shape)}, but weight {tuple(weight.shape)} '
            f'asks for ({weight.shape[0]},)'
        )
    if not x.dtype.is_floating_point:
        raise TypeError(f'gated_conv: x is {x.dtype}, not a floating-point dtype')
