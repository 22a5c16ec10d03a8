"""The branch of a Gated CNN block on a CPU, in strips of rows that stay in the cache.

A CPU pays for a full-size intermediate twice: in bandwidth, and in page faults, because memory of
more than 32 MB is mapped afresh by every operation (glibc's largest mmap threshold). Only maps as
wide as the block's input and, for a backward pass, fc1's output exist as a whole.
"""

import functools
import os
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ..gated_conv.cpu import (
    activate,
    column_sums,
    convolve,
    gate_backward,
    input_gradient,
    weight_gradient,
)
from .parameters import Parameters

# oneDNN and its caller keep what they have compiled for each shape, up to 1024 shapes each by
# default: some gigabytes with images of many sizes. Both read these limits at their first use. A
# training step of Mask R-CNN or UperNet on one image size uses about 125 shapes.
for _limit in ('ONEDNN_PRIMITIVE_CACHE_CAPACITY', 'LRU_CACHE_CAPACITY'):
    os.environ.setdefault(_limit, '256')

# Pixels in a strip, about.
STRIP = 8192


def kept_widths(hidden: int, conv_dim: int) -> tuple[int, int]:
    """Widths of the two tensors that the forward pass keeps: fc1's [g | i], and its c."""
    return 2 * hidden - conv_dim, conv_dim


def forward(
    x: Tensor, parameters: Parameters, activation: str, eps: float, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Output (N, H, W, C) and fc1's in two parts, [g | i] and c, both empty unless ``keep``."""
    p, dtype = parameters, parameters.fc1_weight.dtype
    hidden, inner, _ = p.widths
    outer = hidden + inner
    n = F.layer_norm(x, x.shape[-1:], p.norm_weight, p.norm_bias, eps).to(dtype)
    c = linear(n, p.fc1_weight[outer:], p.fc1_bias[outer:])
    mixed = convolve(c, p.conv_weight, p.conv_bias)
    parts = list(strips(x))
    y, kept = n.new_empty(x.shape), None
    if keep and len(parts) > 1:
        kept = n.new_empty((*x.shape[:-1], outer))
    weight, bias = p.fc1_weight[:outer], p.fc1_bias[:outer]
    for strip in parts:
        if kept is None:
            gi = linear(n[strip], weight, bias)
        else:
            gi = kept[strip]
            torch.addmm(bias, n[strip].flatten(0, 2), weight.t(), out=gi.view(-1, outer))
        gate = activate(gi[..., :hidden], activation)
        gate[..., :inner].mul_(gi[..., hidden:])
        gate[..., inner:].mul_(mixed[strip])
        out = linear(gate, p.fc2_weight, p.fc2_bias)
        if len(parts) > 1:
            y[strip] = out
        else:
            y = out
    if not keep:
        return y, n.new_empty(0), n.new_empty(0)
    return y, gi if kept is None else kept, c


def backward(
    grad_y: Tensor,
    x: Tensor,
    parameters: Parameters,
    gi: Tensor,
    c: Tensor,
    activation: str,
    eps: float,
) -> tuple[Tensor, Parameters]:
    """Gradients of x and of the parameters."""
    p = parameters
    hidden, inner, _ = p.widths
    outer = hidden + inner
    normed, mean, rstd = torch.native_layer_norm(x, x.shape[-1:], p.norm_weight, p.norm_bias, eps)
    n = normed.to(c.dtype)
    mixed = convolve(c, p.conv_weight, p.conv_bias)
    grad_mixed, grad_n = c.new_empty(c.shape), c.new_empty(x.shape)
    sums = [_total_for(x) for x in (p.fc1_weight, p.fc1_bias, p.fc2_weight, p.fc2_bias)]
    grad_weight1, grad_bias1, grad_weight2, grad_bias2 = sums
    parts = list(strips(x))
    for count, strip in enumerate(parts):
        g, i = gi[strip].split((hidden, inner), dim=-1)
        grad = grad_y[strip].contiguous()
        grad_gi = grad.new_empty((*grad.shape[:-1], outer))
        gate = gate_backward(
            product(grad, p.fc2_weight), g, i, mixed[strip], activation, grad_gi, grad_mixed[strip]
        )
        _add_product(grad_weight2, grad, gate, count)
        _add_product(grad_weight1[:outer], grad_gi, n[strip], count)
        grad_bias2 += column_sums(grad)
        grad_bias1[:outer] += column_sums(grad_gi)
        part = product(grad_gi, p.fc1_weight[:outer])
        if len(parts) > 1:
            grad_n[strip] = part
        else:
            grad_n = part
    grad_c = input_gradient(grad_mixed, p.conv_weight)
    _add_product(grad_weight1[outer:], grad_c, n, 0)
    grad_bias1[outer:] += column_sums(grad_c)
    grad_n += product(grad_c, p.fc1_weight[outer:])
    grad_x, *grad_norm = torch.ops.aten.native_layer_norm_backward(
        grad_n.to(x.dtype), x, x.shape[-1:], mean, rstd, p.norm_weight, p.norm_bias, [True] * 3
    )
    grad_conv_weight = weight_gradient(c, grad_mixed, p.conv_weight.shape[-1])
    grad_conv_bias = column_sums(grad_mixed)
    grads = (*grad_norm, *sums[:2], grad_conv_weight, grad_conv_bias, *sums[2:])
    return grad_x, Parameters(*grads)


def strips(x: Tensor) -> Iterator[tuple[slice, slice]]:
    """Indices of an (N, H, W, C) map's strips: whole images where they are small, else rows."""
    batch, height, width, _ = x.shape
    images = max(1, STRIP // (height * width))
    if images > 1:
        for first in range(0, batch, images):
            yield slice(first, first + images), slice(None)
        return
    count = max(1, round(height * width / STRIP))
    rows = -(-height // count)
    for image in range(batch):
        for top in range(0, height, rows):
            yield slice(image, image + 1), slice(top, top + rows)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``F.linear`` by oneDNN's matrix product, some 10 % faster than PyTorch's choice, MKL's."""
    if _has_onednn(x.dtype):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, 'none', [], '')
    return F.linear(x, weight, bias)


def product(x: Tensor, matrix: Tensor) -> Tensor:
    """``x @ matrix``, by oneDNN where PyTorch would not take it."""
    if x.dtype == torch.float32 and _has_onednn(x.dtype):
        return torch.ops.mkldnn._linear_pointwise(x, matrix.t(), None, 'none', [], '')
    return x @ matrix


@functools.cache
def _has_onednn(dtype: torch.dtype) -> bool:
    """Whether this build and processor have the operator that Inductor takes for a Linear."""
    return (
        dtype in (torch.float32, torch.bfloat16)
        and torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability().startswith('AVX512')
        and hasattr(torch.ops.mkldnn, '_linear_pointwise')
    )


def _add_product(total: Tensor, left: Tensor, right: Tensor, count: int) -> None:
    """``total += left^T @ right`` over all pixels; ``total`` is as good as zero at count 0."""
    left, right = left.flatten(0, 2).t(), right.flatten(0, 2)
    if total.dtype == left.dtype:
        torch.addmm(total, left, right, beta=min(count, 1), out=total)
    elif count:
        total += left @ right
    else:
        total.copy_(left @ right)


def _total_for(parameter: Tensor) -> Tensor:
    """To add its gradient up in, float32 at least: vectors zero, matrices for `_add_product`."""
    dtype = torch.promote_types(parameter.dtype, torch.float32)
    if parameter.dim() == 2:
        return torch.empty_like(parameter, dtype=dtype)
    return torch.zeros_like(parameter, dtype=dtype)
