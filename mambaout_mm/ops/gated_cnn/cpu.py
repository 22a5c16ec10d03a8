"""The branch of a Gated CNN block on a CPU, in strips of rows that stay in the cache.

It computes ``fc2(act(g) * cat(i, conv(c)))`` with ``g, i, c = split(fc1(norm(x)))``; maps are
(N, H, W, C). Matrix products are oneDNN's; what lies between them are the passes
of ``native_passes.py`` or ``torch_passes.py``.

A CPU pays for a full-size intermediate twice: in bandwidth, and in page faults, because every
operation maps memory of more than 32 MB afresh (glibc's largest mmap threshold). Only maps as wide
as the block's input or c exist as a whole, and for a backward pass the rest of fc1's output.
"""

import os
from collections.abc import Iterable, Iterator
from types import ModuleType

import torch
from torch import Tensor

from ..products import linear, matmul, matmul_over_rows
from .parameters import Parameters

# oneDNN and its caller keep what they have compiled for each shape, up to 1024 shapes each by
# default: some gigabytes with images of many sizes. Both read these limits at their first use. A
# training step of Mask R-CNN or UperNet on one image size uses about 125 shapes.
for _limit in ('ONEDNN_PRIMITIVE_CACHE_CAPACITY', 'LRU_CACHE_CAPACITY'):
    os.environ.setdefault(_limit, '256')

STRIP_PIXELS = 8192  # about


class Strips:
    """The branch by given passes.

    Args:
        passes (ModuleType): ``native_passes`` or ``torch_passes``.
    """

    def __init__(self, passes: ModuleType) -> None:
        self.passes = passes

    @staticmethod
    def kept_widths(hidden: int, conv_dim: int) -> tuple[int, int]:
        """Widths of the two tensors that the forward pass keeps: fc1's [g | i], and its c."""
        return 2 * hidden - conv_dim, conv_dim

    def forward(
        self, x: Tensor, parameters: Parameters, activation: str, eps: float, keep: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Output (N, H, W, C), and fc1's output in two parts for a backward pass.

        The parts are [g | i], (N, H, W, 2h - Cc), and c, (N, H, W, Cc); both empty unless ``keep``.
        """
        p, dtype = parameters, parameters.fc1_weight.dtype
        hidden, inner, _ = p.widths
        outer = hidden + inner  # width of [g | i]
        n = self.passes.layer_norm(x, p.norm_weight, p.norm_bias, eps, dtype)
        c = linear(n, p.fc1_weight[outer:], p.fc1_bias[outer:])
        mixed = self.passes.convolve(c, p.conv_weight, p.conv_bias)
        weight, bias = p.fc1_weight[:outer], p.fc1_bias[:outer]
        parts = list(strips(x))
        kept = linear(n, weight, bias) if keep else None
        y = n.new_empty(x.shape)
        for strip in parts:
            gi = linear(n[strip], weight, bias) if kept is None else kept[strip]
            gate = self.passes.gate(gi, mixed[strip], activation)
            if len(parts) > 1:
                linear_into(y[strip], gate, p.fc2_weight, p.fc2_bias)
            else:
                y = linear(gate, p.fc2_weight, p.fc2_bias)
        if kept is None:
            return y, n.new_empty(0), n.new_empty(0)
        return y, kept, c

    def backward(
        self,
        grad_y: Tensor,
        x: Tensor,
        parameters: Parameters,
        gi: Tensor,
        c: Tensor,
        activation: str,
        eps: float,
    ) -> tuple[Tensor, Parameters]:
        """Gradients of x and of the parameters."""
        p, passes = parameters, self.passes
        outer = gi.shape[-1]  # width of [g | i]
        n = passes.layer_norm(x, p.norm_weight, p.norm_bias, eps, c.dtype)
        mixed = passes.convolve(c, p.conv_weight, p.conv_bias)
        grad_mixed, grad_n = c.new_empty(c.shape), c.new_empty(x.shape)
        parts = list(strips(x))
        sums = None
        for strip in parts:
            grad = grad_y[strip].contiguous()
            gate, grad_gi, grad_bias = passes.gate_backward(
                matmul(grad, p.fc2_weight), gi[strip], mixed[strip], activation, grad_mixed[strip]
            )
            part = (
                matmul_over_rows(grad_gi, n[strip]),
                grad_bias,
                matmul_over_rows(grad, gate),
                passes.column_sums(grad),
            )
            sums = part if sums is None else _add(sums, part)
            if len(parts) > 1:
                linear_into(grad_n[strip], grad_gi, p.fc1_weight[:outer].t(), None)
            else:
                grad_n = matmul(grad_gi, p.fc1_weight[:outer])
        grad_weight_gi, grad_bias_gi, *grad_fc2 = sums
        grad_c = passes.input_gradient(grad_mixed, p.conv_weight)
        grad_weight_c, grad_bias_c = matmul_over_rows(grad_c, n), passes.column_sums(grad_c)
        grad_n += matmul(grad_c, p.fc1_weight[outer:])
        grad_x, *grad_norm = passes.layer_norm_backward(grad_n, x, p.norm_weight, p.norm_bias, eps)
        grad_conv = passes.conv_gradients(c, grad_mixed, p.conv_weight.shape[-1])
        grad_fc1 = (
            torch.cat((grad_weight_gi, grad_weight_c)),
            torch.cat((grad_bias_gi, grad_bias_c)),
        )
        return grad_x, Parameters(*grad_norm, *grad_fc1, *grad_conv, *grad_fc2)


def strips(x: Tensor) -> Iterator[tuple[slice, slice]]:
    """Indices of the strips of an (N, H, W, C) map: whole images if they are small, else rows."""
    batch, height, width, _ = x.shape
    images = max(1, STRIP_PIXELS // (height * width))
    if images > 1:
        for first in range(0, batch, images):
            yield slice(first, first + images), slice(None)
        return
    count = max(1, round(height * width / STRIP_PIXELS))
    rows = -(-height // count)
    for image in range(batch):
        for top in range(0, height, rows):
            yield slice(image, image + 1), slice(top, top + rows)


def linear_into(out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Write ``F.linear(x, weight, bias)`` to a part of a map."""
    if x.dtype == torch.bfloat16 and bias is not None:
        torch.addmm(bias, x.flatten(0, 2), weight.t(), out=out.view(-1, out.shape[-1]))
    elif x.dtype == torch.bfloat16:
        torch.mm(x.flatten(0, 2), weight.t(), out=out.view(-1, out.shape[-1]))
    else:  # oneDNN's operator has no way to say where to, and is faster in spite of the copy
        out.copy_(matmul(x, weight.t()) if bias is None else linear(x, weight, bias))


def _add(sums: Iterable[Tensor], parts: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """Sums of one more strip, in float32 at least."""
    return tuple(
        total.to(torch.promote_types(total.dtype, torch.float32)) + part
        for total, part in zip(sums, parts, strict=True)
    )
