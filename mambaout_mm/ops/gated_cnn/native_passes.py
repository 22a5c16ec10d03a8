"""Passes over the maps of a Gated CNN block on a CPU by the C kernels beside this file.

The functions are those of ``torch_passes.py``, for float32 and bfloat16. Arithmetic is float32,
sums are float32.
"""

import ctypes

import torch
from torch import Tensor

from .. import native

ACTIVATIONS = {'gelu': 0, 'silu': 1}  # enum activation of gate.c
TASKS = 32  # about: as many as are shared among threads, whatever their number
# Rows of the maps that a task of convolution.c or conv_gradient.c copies to the cache, at most, and
# vectors of the copies.
BAND_ROWS = 16
BAND_VECTORS = 1 << 13
VECTOR_FLOATS = 16  # at most; PyTorch aligns memory to as many

_POINTER, _LONG = ctypes.c_void_p, ctypes.c_long


def _fields(pointers: str, numbers: str) -> list[tuple[str, type]]:
    return [
        *((name, _POINTER) for name in pointers.split()),
        *((name, _LONG) for name in numbers.split()),
    ]


class _Norm(ctypes.Structure):
    """``struct norm`` of layer_norm.c."""

    _fields_ = [
        *_fields(
            'x weight bias grad y grad_x sums', 'pixels channels dtype_x dtype_y rows threads'
        ),
        ('eps', ctypes.c_float),
    ]


class _Gate(ctypes.Structure):
    """``struct gate`` of gate.c."""

    _fields_ = _fields(
        'gi mixed grad y grad_gi grad_mixed sums',
        'pixels hidden inner dtype activation rows threads',
    )


class _Convolution(ctypes.Structure):
    """``struct convolution`` of convolution.c."""

    _fields_ = _fields(
        'input weight bias output copies',
        'images height width channels size dtype band turned vectors threads',
    )


class _ConvGradient(ctypes.Structure):
    """``struct conv_gradient`` of conv_gradient.c."""

    _fields_ = _fields(
        'input grad sums copies', 'images height width channels size dtype band vectors threads'
    )


class _Columns(ctypes.Structure):
    """``struct columns`` of column_sums.c."""

    _fields_ = _fields('x sums', 'pixels channels dtype rows threads')


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


def convolve(c: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return _convolve(c, weight, bias, turned=False)


def input_gradient(grad: Tensor, weight: Tensor) -> Tensor:
    return _convolve(grad, weight, None, turned=True)


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, turned: bool) -> Tensor:
    x, weight = x.contiguous(), weight.contiguous()
    y = torch.empty_like(x)
    size, threads = weight.shape[-1], torch.get_num_threads()
    rows, vectors = _band(*x.shape[1:3], size, besides=0)
    copies = x.new_empty(threads * vectors, VECTOR_FLOATS, dtype=torch.float32)
    arguments = _Convolution(
        x.data_ptr(),
        weight.data_ptr(),
        None if bias is None else bias.data_ptr(),
        y.data_ptr(),
        copies.data_ptr(),
        *x.shape,
        size,
        native.DTYPES[x.dtype],
        rows,
        turned,
        vectors,
        threads,
    )
    native.kernels().depthwise_convolution(ctypes.byref(arguments))
    return y


def conv_gradients(c: Tensor, grad: Tensor, size: int) -> tuple[Tensor, Tensor]:
    images, height, width, channels = c.shape
    threads = torch.get_num_threads()
    rows, vectors = _band(height, width, size, besides=width)
    bands = -(-height // rows)
    copies = c.new_empty(threads * vectors, VECTOR_FLOATS, dtype=torch.float32)
    sums = torch.empty(images * bands, size * size + 1, channels)
    arguments = _ConvGradient(
        c.data_ptr(),
        grad.data_ptr(),
        sums.data_ptr(),
        copies.data_ptr(),
        images,
        height,
        width,
        channels,
        size,
        native.DTYPES[c.dtype],
        rows,
        vectors,
        threads,
    )
    native.kernels().conv_weight_gradient(ctypes.byref(arguments))
    grad_weight = sums[:, :-1].sum(0)  # (k * k, Cc)
    return grad_weight.t().reshape(channels, 1, size, size), sums[:, -1].sum(0)


def _band(height: int, width: int, size: int, besides: int) -> tuple[int, int]:
    """Rows of a band whose copies fit the cache, and the vectors that it takes.

    Args:
        height, width (int): Of the map.
        size (int): Side of the kernel, which reaches rows and columns around the band.
        besides (int): Vectors that a row takes besides its copy.
    """
    padded = width + size - 1
    rows = (BAND_VECTORS - (size - 1) * padded) // (padded + besides)
    rows = max(1, min(rows, BAND_ROWS, height))
    return rows, (rows + size - 1) * padded + rows * besides + size**2


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
