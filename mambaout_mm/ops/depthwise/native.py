"""Depthwise convolutions in C, on a CPU: ``convolution.c`` and ``conv_gradient.c``.

Maps are contiguous (N, H, W, C), float32 or bfloat16; arithmetic and sums are float32. Results do
not depend on the number of threads.
"""

import ctypes

import torch
from torch import Tensor

from .. import native
from ..native.arguments import fields

# Rows of the maps that a task copies to the cache, at most, and vectors of the copies.
BAND_ROWS = 16
BAND_VECTORS = 1 << 13
VECTOR_FLOATS = 16  # at most; PyTorch aligns memory to as many


class _Convolution(ctypes.Structure):
    """``struct convolution`` of convolution.c."""

    _fields_ = fields(
        'input weight bias output copies',
        'images height width channels size dtype band turned vectors threads',
    )


class _ConvGradient(ctypes.Structure):
    """``struct conv_gradient`` of conv_gradient.c."""

    _fields_ = fields(
        'input grad sums copies', 'images height width channels size dtype band vectors threads'
    )


def convolve(c: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolution with zeros around the map, (N, H, W, C) to the same shape.

    Args:
        c (Tensor): The map.
        weight (Tensor): (C, 1, k, k) with odd k, in the dtype of ``c``.
        bias (Tensor, optional): (C,), in the dtype of ``c``.
    """
    return _convolve(c, weight, bias, turned=False)


def input_gradient(grad: Tensor, weight: Tensor) -> Tensor:
    """Gradient of :func:`convolve`'s input, given that of its output."""
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
    """Gradients of :func:`convolve`'s weight, (C, 1, size, size), and bias, in float32.

    Args:
        c (Tensor): The convolution's input.
        grad (Tensor): Gradient of its output, in the dtype of ``c``.
        size (int): Side of the kernel, odd.
    """
    c, grad = c.contiguous(), grad.contiguous()
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
