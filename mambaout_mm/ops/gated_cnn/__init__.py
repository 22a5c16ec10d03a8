"""The branch of a Gated CNN block as one operator: norm, fc1, gate with convolution, fc2.

Paper: arXiv 2405.07992, algorithm 1. It is one operator because a CPU is fastest when it takes each
strip of rows through the whole branch, and because the backward pass can recompute what is cheap.

``reference.py``      the definition
``cpu.py``            CPU: strips of rows through the libraries' matrix products and passes between
                      them, which are
``native_passes.py``  C kernels in float32 and bfloat16, where they are installed
``torch_passes.py``   plain operations elsewhere
``composed.py``       GPU: matrix products of the libraries around a gate, which is
``triton_gate.py``    on CUDA: kernels, whose work on tiles is in ``triton_tiles.py``
``plain_gate.py``     elsewhere: plain operations
"""

from typing import Any

import torch
from torch import Tensor

from .. import native
from ..modes import by_definition, compute_dtype, exporting
from ..torch_versions import custom_op, is_compiling
from ..triton_use import runs_triton
from . import native_passes, plain_gate, torch_passes
from .composed import Composed
from .cpu import Strips
from .parameters import Parameters
from .reference import ACTIVATIONS, gated_cnn_reference

__all__ = ['gated_cnn']


def gated_cnn(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    fc1_weight: Tensor,
    fc1_bias: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    fc2_weight: Tensor,
    fc2_bias: Tensor,
    activation: str,
    eps: float,
) -> Tensor:
    """``fc2(act(g) * cat(i, dwconv(c)))`` with ``g, i, c = split(fc1(layer_norm(x)))``.

    Computes in the dtype of ``x``, or autocast's. Differentiable in every tensor, once. For the
    backward pass it keeps ``x`` and fc1's output. The norm, the convolution and the gate are
    computed again; a plain implementation keeps norm and gate too. Under ``torch.export``, ONNX
    export and ``torch.jit.trace`` the graph has plain operators.

    Args:
        x (Tensor): (N, H, W, C).
        norm_weight, norm_bias (Tensor): Of the LayerNorm, (C,).
        fc1_weight, fc1_bias (Tensor): (2h, C) and (2h,); rows of g (h), i (h - Cc) and c (Cc).
        conv_weight, conv_bias (Tensor): Of the depthwise convolution, (Cc, 1, k, k) and (Cc,), with
            odd k.
        fc2_weight, fc2_bias (Tensor): (C, h) and (C,).
        activation (str): 'gelu' (exact) or 'silu'.
        eps (float): Of the LayerNorm.

    Returns:
        Tensor: (N, H, W, C), without the residual connection.

    Raises:
        ValueError: If shapes do not fit together or the activation is unknown.
        TypeError: If ``x`` is not floating point.
    """
    inputs = (
        x,
        norm_weight,
        norm_bias,
        fc1_weight,
        fc1_bias,
        conv_weight,
        conv_bias,
        fc2_weight,
        fc2_bias,
    )
    if activation not in ACTIVATIONS:
        known = ' or '.join(map(repr, ACTIVATIONS))
        raise ValueError(f'gated_cnn: activation is {known}, got {activation!r}')
    if not x.dtype.is_floating_point:
        raise TypeError(f'gated_cnn: x is {x.dtype}, not a floating-point dtype')
    _check_shapes(*inputs)
    if exporting() or by_definition() or x.numel() == 0:
        return gated_cnn_reference(*inputs, activation, eps)
    keep = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
    # Inference outside of graphs goes past the dispatcher, a tenth of a millisecond for each block.
    forward = torch.ops.mambaout_mm.gated_cnn if keep or is_compiling() else _forward
    # Here and not in the operator, so that the backward pass finds them cast.
    parameters = Parameters(*inputs[1:]).to(compute_dtype(x))
    y, *_ = forward(x, *parameters, activation, eps, keep)
    return y


def _branch(device: torch.device, dtype: torch.dtype) -> Strips | Composed:
    """The implementation for a device and a dtype. No other place decides this."""
    if device.type == 'cpu':
        in_c = dtype in native.DTYPES and native.kernels() is not None
        return Strips(native_passes if in_c else torch_passes)
    if runs_triton(device, dtype, 'gated_cnn', 'its gate in plain PyTorch operations'):
        from . import triton_gate

        return Composed(triton_gate)
    return Composed(plain_gate)


def _check_shapes(x: Tensor, *tensors: Tensor) -> None:
    """By a single comparison of all shapes, since every block of a network pays for it."""
    parameters = Parameters(*tensors)
    found = tuple(tensor.shape for tensor in parameters)
    try:
        _, _, _, channels = x.shape
        _, hidden = parameters.fc2_weight.shape
        conv_dim, _, _, size = parameters.conv_weight.shape
    except ValueError:
        expected = None
    else:
        expected = Parameters.shapes(channels, hidden, conv_dim, size)
    if found != expected or not 1 <= conv_dim <= hidden or size % 2 == 0:
        given = ', '.join(
            f'{name} {tuple(shape)}' for name, shape in zip(Parameters._fields, found, strict=True)
        )
        raise ValueError(
            'gated_cnn needs x (N, H, W, C), a norm (C,), fc1 (2h, C), a depthwise convolution '
            '(Cc, 1, k, k) with Cc from 1 to h and odd k, fc2 (C, h), and a bias for each; got x '
            f'{tuple(x.shape)}, {given}'
        )


def _forward(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    fc1_weight: Tensor,
    fc1_bias: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    fc2_weight: Tensor,
    fc2_bias: Tensor,
    activation: str,
    eps: float,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    parameters = Parameters(
        norm_weight,
        norm_bias,
        fc1_weight,
        fc1_bias,
        conv_weight,
        conv_bias,
        fc2_weight,
        fc2_bias,
    )
    with torch.autocast(x.device.type, enabled=False):
        branch = _branch(x.device, fc1_weight.dtype)
        return branch.forward(x, parameters, activation, eps, keep)


_forward_op = custom_op('mambaout_mm::gated_cnn', _forward, mutates_args=())


@_forward_op.register_fake
def _(x: Tensor, *inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    *parameters, _, _, keep = inputs
    parameters = Parameters(*parameters)
    hidden, _, conv_dim = parameters.widths
    dtype = parameters.fc1_weight.dtype
    widths = _branch(x.device, dtype).kept_widths(hidden, conv_dim)
    shapes = [(*x.shape[:-1], width) if keep and width else (0,) for width in widths]
    return tuple(x.new_empty(shape, dtype=dtype) for shape in (x.shape, *shapes))


@custom_op('mambaout_mm::gated_cnn_backward', mutates_args=())
def _backward_op(
    grad_y: Tensor,
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    fc1_weight: Tensor,
    fc1_bias: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    fc2_weight: Tensor,
    fc2_bias: Tensor,
    kept: Tensor,
    kept_c: Tensor,
    activation: str,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    parameters = Parameters(
        norm_weight,
        norm_bias,
        fc1_weight,
        fc1_bias,
        conv_weight,
        conv_bias,
        fc2_weight,
        fc2_bias,
    )
    with torch.autocast(x.device.type, enabled=False):
        grad_x, grads = _branch(x.device, kept.dtype).backward(
            grad_y, x, parameters, kept, kept_c, activation, eps
        )
    cast = (grad.to(given.dtype) for grad, given in zip(grads, parameters, strict=True))
    return tuple(grad.contiguous() for grad in (grad_x, *cast))  # as the fake kernel promises


@_backward_op.register_fake
def _(grad_y: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
    x, *parameters = inputs[: 1 + len(Parameters._fields)]
    return tuple(tensor.new_empty(tensor.shape) for tensor in (x, *parameters))


def _setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, ctx.activation, ctx.eps, _ = inputs
    ctx.save_for_backward(*tensors, *output[1:])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_y: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    if grad_y is None:
        return (None,) * len(ctx.needs_input_grad)
    grads = torch.ops.mambaout_mm.gated_cnn_backward(
        grad_y, *ctx.saved_tensors, ctx.activation, ctx.eps
    )
    return *grads, None, None, None


_forward_op.register_autograd(_backward, setup_context=_setup_context)
