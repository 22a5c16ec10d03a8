"""Passes over the maps of a Gated CNN block on a CPU by the C kernels beside this file.

The functions are those of ``torch_passes.py``, for float32 and bfloat16. Arithmetic is float32,
sums are float32.
"""

import ctypes

import torch
from torch import Tensor

from .. import native
from ..depthwise.native import conv_gradients, convolve, input_gradient
from ..native.arguments import fields

__all__ = [
    'column_sums',
    'conv_gradients',
    'convolve',
    'gate',
    'gate_backward',
    'input_gradient',
    'layer_norm',
    'layer_norm_backward',
]

ACTIVATIONS = {'gelu': 0, 'silu': 1}  # enum activation of gate.c
TASKS = 32  # about: as many as are shared among threads, whatever their number


class _Norm(ctypes.Structure):
    """``struct norm`` of layer_norm.c."""

    _fields_ = [
        *fields('x weight bias grad y grad_x sums', 'pixels channels dtype_x dtype_y rows threads'),
        ('eps', ctypes.c_float),
    ]


class _Gate(ctypes.Structure):
    """``struct gate`` of gate.c."""

    _fields_ = fields(
        'gi mixed grad y grad_gi grad_mixed sums',
        'pixels hidden inner dtype activation rows threads',
    )


class _Columns(ctypes.Structure):
    """``struct columns`` of column_sums.c."""

    _fields_ = fields('x sums', 'pixels channels dtype rows threads')


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    x, weight, bias = _readable(x), weight.float().contiguous(), bias.float().contiguous()
    y = torch.empty_like(x, dtype=dtype)
    pixels, channels, rows = _pixels(x)
    arguments = _Norm(
        x.data_ptr(),
        weight.data_ptr(),
        bias.data_ptr(),
        None,
        y.data_ptr(),
        None,
        None,
        pixels,
        channels,
        native.DTYPES[x.dtype],
        native.DTYPES[dtype],
        rows,
        torch.get_num_threads(),
        eps,
    )
    native.kernels().layer_norm_forward(ctypes.byref(arguments))
    return y


def layer_norm_backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = x.dtype
    x, grad, weight = _readable(x), grad.contiguous(), weight.float().contiguous()
    grad_x = torch.empty_like(x)
    pixels, channels, rows = _pixels(x)
    sums = torch.empty(-(-pixels // rows), 2, channels)
    arguments = _Norm(
        x.data_ptr(),
        weight.data_ptr(),
        None,
        grad.data_ptr(),
        None,
        grad_x.data_ptr(),
        sums.data_ptr(),
        pixels,
        channels,
        native.DTYPES[x.dtype],
        native.DTYPES[grad.dtype],
        rows,
        torch.get_num_threads(),
        eps,
    )
    native.kernels().layer_norm_backward(ctypes.byref(arguments))
    return grad_x.to(dtype), sums[:, 0].sum(0), sums[:, 1].sum(0)


def gate(gi: Tensor, mixed: Tensor, activation: str) -> Tensor:
    y = gi.new_empty(_gate_shape(gi, mixed))
    _run_gate('gate_forward', activation, gi, mixed, None, y, None, None, None)
    return y


def gate_backward(
    grad: Tensor, gi: Tensor, mixed: Tensor, activation: str, grad_mixed: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    grad = grad.contiguous()
    y, grad_gi = torch.empty_like(grad), torch.empty_like(gi)
    pixels, _, rows = _pixels(grad)
    sums = torch.empty(-(-pixels // rows), gi.shape[-1])
    _run_gate('gate_backward', activation, gi, mixed, grad, y, grad_gi, grad_mixed, sums)
    return y, grad_gi, sums.sum(0)


def column_sums(x: Tensor) -> Tensor:
    x = x.contiguous()
    pixels, channels, rows = _pixels(x)
    sums = torch.empty(-(-pixels // rows), channels)
    arguments = _Columns(
        x.data_ptr(),
        sums.data_ptr(),
        pixels,
        channels,
        native.DTYPES[x.dtype],
        rows,
        torch.get_num_threads(),
    )
    native.kernels().column_sums(ctypes.byref(arguments))
    return sums.sum(0)


def _run_gate(kernel: str, activation: str, *tensors: Tensor | None) -> None:
    gi, mixed, _, y, *_ = tensors
    pixels, hidden, rows = _pixels(y)
    arguments = _Gate(
        *(None if tensor is None else tensor.data_ptr() for tensor in tensors),
        pixels,
        hidden,
        hidden - mixed.shape[-1],
        native.DTYPES[gi.dtype],
        ACTIVATIONS[activation],
        rows,
        torch.get_num_threads(),
    )
    getattr(native.kernels(), kernel)(ctypes.byref(arguments))


def _gate_shape(gi: Tensor, mixed: Tensor) -> tuple[int, ...]:
    return *gi.shape[:-1], (gi.shape[-1] + mixed.shape[-1]) // 2


def _readable(x: Tensor) -> Tensor:
    """``x`` in an order and a dtype that the kernels read; float16 as float32."""
    return (x if x.dtype in native.DTYPES else x.float()).contiguous()


def _pixels(x: Tensor) -> tuple[int, int, int]:
    """Pixels, channels, and pixels in a task: by the shape alone, as sums depend on it."""
    *_, channels = x.shape
    pixels = x.numel() // channels
    return pixels, channels, max(1, -(-pixels // TASKS))
