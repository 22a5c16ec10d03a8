"""The recurrence of Mamba's state space model, for any length.

Paper: arXiv 2312.00752 (Mamba), algorithm 2; several directions at once as in VMamba (arXiv
2401.10166).

``reference.py``  the definition
``native.py``     CPU, float32 and bfloat16: C kernels in ``scan_forward.c`` and
                  ``scan_backward.c``, which share ``scan.h`` and ``tile.h``
``blocked.py``    any device: blocks of PyTorch's operations
``triton.py``     CUDA: kernels in ``triton_kernels.py``, whose work on tiles is in
                  ``triton_tiles.py``
"""

import math
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from .. import native as libraries
from ..modes import by_definition, without_results
from ..torch_versions import custom_op
from ..triton_use import runs_triton
from . import blocked, native
from .reference import selective_scan_reference

__all__ = ['selective_scan']

INPUTS = ('u', 'delta', 'A', 'B', 'C', 'D', 'delta_bias')
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = True,
) -> Tensor:
    """Selective scan of G groups of D channels along a sequence of length L.

    For each channel, with a state h of N numbers that starts at zero::

        dt_t = softplus(delta_t + delta_bias)
        h_t  = exp(dt_t * A) * h_{t-1} + dt_t * B_t * u_t
        y_t  = sum over N of C_t * h_t, plus D * u_t

    Arithmetic, states and y are float32 whatever the inputs are, also under autocast, because sums
    of several directions overflow float16; they are float64 if ``u`` is. Every argument is
    differentiable, once. The forward pass keeps the state before each block of 64 steps (PyTorch's
    operations: or more; Triton: 16 steps), from which the backward pass recomputes the others. Any
    memory layout is read in place. On a CPU, the kernels' results do not depend on the number of
    threads.

    Decays are expected to shrink the state (A < 0 and steps above 0, as in every published Mamba).
    If they make the state grow past float32's range inside a block, the result is infinite or NaN.

    Args:
        u (Tensor): Inputs, (b, G, D, L) or (b, G * D, L) with a group's channels side by side.
        delta (Tensor): Step sizes before bias and softplus, of the same shape.
        A (Tensor): (G * D, N).
        B, C (Tensor): (b, G, N, L), shared by the channels of a group.
        D (Tensor, optional): Skip connection, (G * D,). Defaults to None.
        delta_bias (Tensor, optional): (G * D,). Defaults to None.
        delta_softplus (bool): Whether steps pass softplus, which is the identity above 20. Defaults
            to True.

    Returns:
        Tensor: y, float32 or float64, in the shape of ``u``.

    Raises:
        ValueError: If shapes do not fit together.
        TypeError: If an argument is not floating point.
    """
    _check(u, delta, A, B, C, D, delta_bias)
    if by_definition() or u.shape[0] == 0:  # a batch without images, which has no block
        return selective_scan_reference(u, delta, A, B, C, D, delta_bias, delta_softplus)
    merged = u.dim() == 3
    if merged:
        u, delta = (x.unflatten(1, (B.shape[1], -1)) for x in (u, delta))
    y, _ = torch.ops.mambaout_mm.selective_scan(u, delta, A, B, C, D, delta_bias, delta_softplus)
    return y.flatten(1, 2) if merged else y


@custom_op('mambaout_mm::selective_scan', mutates_args=())
def _forward_op(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
) -> tuple[Tensor, Tensor]:
    if without_results():
        dtype = torch.promote_types(u.dtype, torch.float32)
        return torch.zeros_like(u, dtype=dtype), u.new_zeros(0, dtype=dtype)
    with torch.autocast(u.device.type, enabled=False):
        return _implementation(u).forward(u, delta, A, B, C, D, delta_bias, delta_softplus)


@_forward_op.register_fake
def _(*inputs: Any) -> tuple[Tensor, Tensor]:
    u, _, A, *_ = inputs
    dtype = torch.float64 if u.dtype == torch.float64 else torch.float32
    states = u.new_empty(_implementation(u).states_shape(*u.shape, A.shape[1]), dtype=dtype)
    return torch.empty_like(u, dtype=dtype), states


@custom_op('mambaout_mm::selective_scan_backward', mutates_args=())
def _backward_op(
    grad_y: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    states: Tensor,
    delta_softplus: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    with torch.autocast(u.device.type, enabled=False):
        grads = _implementation(u).backward(
            grad_y, u, delta, A, B, C, D, delta_bias, states, delta_softplus
        )
    return tuple(grad_y.new_empty(0) if grad is None else grad for grad in grads)


@_backward_op.register_fake
def _(grad_y: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
    u, delta, A, B, C, D, delta_bias = inputs[: len(INPUTS)]
    grad_D, grad_bias = (
        grad_y.new_empty(0) if x is None else x.new_empty(x.shape) for x in (D, delta_bias)
    )
    grad_u, grad_delta, grad_B, grad_C = (torch.empty_like(x) for x in (u, delta, B, C))
    return grad_u, grad_delta, A.new_empty(A.shape), grad_B, grad_C, grad_D, grad_bias


def _setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.delta_softplus = inputs
    ctx.save_for_backward(*tensors, output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_y: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    if grad_y is None:
        return (None,) * (len(INPUTS) + 1)
    *inputs, states = ctx.saved_tensors
    grads = torch.ops.mambaout_mm.selective_scan_backward(
        grad_y, *inputs, states, ctx.delta_softplus
    )
    return *(None if x is None else grad for x, grad in zip(inputs, grads, strict=True)), None


_forward_op.register_autograd(_backward, setup_context=_setup_context)


def _implementation(u: Tensor) -> ModuleType:
    """The implementation for the device and the dtype of ``u``. No other place decides this."""
    if runs_triton(u.device, u.dtype, 'selective_scan', 'in blocks of PyTorch operations'):
        from . import triton

        return triton
    if u.device.type == 'cpu' and u.dtype in libraries.DTYPES and libraries.kernels() is not None:
        return native
    return blocked


def _check(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
) -> None:
    if u.dim() not in (3, 4) or B.dim() != 4 or A.dim() != 2 or 0 in u.shape[1:]:
        raise ValueError(
            'selective_scan takes u of shape (b, G, D, L) or (b, G * D, L), A (G * D, N) and B '
            f'(b, G, N, L), none of them empty but in b; got {tuple(u.shape)}, {tuple(A.shape)} '
            f'and {tuple(B.shape)}'
        )
    batch, length = u.shape[0], u.shape[-1]
    groups, state = B.shape[1], A.shape[1]
    channels = math.prod(u.shape[1:-1])
    if channels % groups or (u.dim() == 4 and u.shape[1] != groups):
        raise ValueError(
            f'selective_scan: u of shape {tuple(u.shape)} does not have the {groups} groups of B '
            f'{tuple(B.shape)}'
        )
    vectors, per_channel = (batch, groups, state, length), (channels,)
    shapes = (u.shape, u.shape, (channels, state), vectors, vectors, per_channel, per_channel)
    for name, tensor, shape in zip(INPUTS, (u, delta, A, B, C, D, delta_bias), shapes, strict=True):
        if tensor is None:
            continue
        if tensor.shape != shape:
            raise ValueError(
                f'selective_scan: {name} has shape {tuple(tensor.shape)}, but u {tuple(u.shape)}, '
                f'{groups} groups and {state} states ask for {tuple(shape)}'
            )
        if tensor.dtype not in DTYPES:
            raise TypeError(f'selective_scan: {name} is {tensor.dtype}, not a floating-point dtype')
