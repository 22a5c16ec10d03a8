"""Passes over the gate of a Gated CNN block on a CPU, of which ``cpu.py`` makes the branch.

With ``g, i, c = split(h)`` the gate is ``act(g) * cat(i, conv(c))``. Maps are (N, H, W, C), which
is PyTorch's channels-last memory; convolutions are depthwise, with zeros around the map.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

aten = torch.ops.aten

# Elements of the gradient in one convolution of `weight_gradient`: one or two megabytes, what the
# caches hold.
STRIP_ELEMENTS = 1 << 19


def gate_backward(
    grad_gate: Tensor,
    g: Tensor,
    i: Tensor,
    mixed: Tensor,
    activation: str,
    grad_gi: Tensor,
    grad_mixed: Tensor,
) -> Tensor:
    """Write the gradients of ``act(g) * cat(i, mixed)`` into the last two arguments.

    Args:
        grad_gate, g (Tensor): (N, H, W, h).
        i (Tensor): (N, H, W, h - Cc).
        mixed (Tensor): The convolution's output, (N, H, W, Cc).
        activation (str): 'gelu' or 'silu'.
        grad_gi (Tensor): Gets the gradients of g and i, (N, H, W, 2h - Cc).
        grad_mixed (Tensor): Gets the gradient of ``mixed``.

    Returns:
        Tensor: The gate, (N, H, W, h).
    """
    hidden, inner = g.shape[-1], i.shape[-1]
    gate = activate(g, activation)
    torch.mul(grad_gate[..., :inner], gate[..., :inner], out=grad_gi[..., hidden:])
    torch.mul(grad_gate[..., inner:], gate[..., inner:], out=grad_mixed)
    grad_act = torch.empty_like(gate)
    for part, factor in ((slice(0, inner), i), (slice(inner, hidden), mixed)):
        torch.mul(grad_gate[..., part], factor, out=grad_act[..., part])
        gate[..., part].mul_(factor)
    activate_backward(grad_act, g, activation, grad_gi[..., :hidden])
    return gate


def activate(g: Tensor, activation: str) -> Tensor:
    """GELU (exact) or SiLU of ``g``, in new contiguous memory."""
    y = g.new_empty(g.shape)
    return aten.gelu.out(g, out=y) if activation == 'gelu' else aten.silu.out(g, out=y)


def activate_backward(grad: Tensor, g: Tensor, activation: str, out: Tensor) -> None:
    """Write the gradient of ``activate(g)``'s input into ``out``."""
    backward = aten.gelu_backward if activation == 'gelu' else aten.silu_backward
    backward.grad_input(grad, g, grad_input=out)


def convolve(c: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Depthwise convolution with zero padding, (N, H, W, Cc) to the same shape."""
    padding = weight.shape[-1] // 2
    y = F.conv2d(c.permute(0, 3, 1, 2), weight, bias, padding=padding, groups=weight.shape[0])
    return y.permute(0, 2, 3, 1)


def input_gradient(grad: Tensor, weight: Tensor) -> Tensor:
    """Gradient of :func:`convolve`'s input: the convolution with the kernel turned by 180 degrees.

    So oneDNN takes its code for a forward pass, which is faster than its code for a backward pass.
    """
    return convolve(grad, weight.flip(2, 3), None)


def weight_gradient(c: Tensor, grad: Tensor, size: int) -> Tensor:
    """Gradient of :func:`convolve`'s weight, (Cc, 1, size, size), in float32 at least.

    grad_w[v, u] = sum over y, x of c[y + v, x + u] grad[y, x] is a convolution too: of c, with
    ``grad`` as the kernel. It is computed for a strip of rows at a time, because oneDNN is fast
    only while a kernel fits the cache. Small images lie side by side as channels, so that each call
    has enough to do. oneDNN's own weight gradient of a channels-last depthwise convolution takes 15
    to 60 times as long as its forward pass.

    Args:
        c (Tensor): The convolution's input, (N, H, W, Cc).
        grad (Tensor): Gradient of the convolution's output, (N, H, W, Cc).
        size (int): Side of the kernel, odd.
    """
    batch, height, width, channels = grad.shape
    pad = size // 2
    rows = max(1, min(height, round(STRIP_ELEMENTS / (width * channels))))
    images = max(1, min(batch, STRIP_ELEMENTS // (height * width * channels)))
    total = torch.zeros(size, size, channels, dtype=torch.promote_types(grad.dtype, torch.float32))
    for first in range(0, batch, images):
        for top in range(0, height, rows):
            bottom = min(height, top + rows)
            kernel = _side_by_side(grad[first : first + images, top:bottom])
            window = c[first : first + images, max(0, top - pad) : bottom + pad]
            above = max(0, pad - top)
            below = bottom + pad - min(height, bottom + pad)
            window = _side_by_side(F.pad(window, (0, 0, 0, 0, above, below)))
            part = F.conv2d(
                window.permute(0, 3, 1, 2),
                kernel.permute(3, 0, 1, 2),
                padding=(0, pad),
                groups=kernel.shape[-1],
            )  # (1, images * Cc, k, k)
            part = part[0].permute(1, 2, 0).reshape(size, size, -1, channels)
            total += part.sum(2, dtype=total.dtype)
    return total.permute(2, 0, 1)[:, None]


def column_sums(x: Tensor) -> Tensor:
    """Sum over all but the last dimension, in the dtype of ``x``.

    PyTorch adds bfloat16 up in float32 anyway; for a float32 result it would copy ``x`` first.
    """
    return x.sum((0, 1, 2))


def _side_by_side(x: Tensor) -> Tensor:
    """(n, H, W, C) to (1, H, W, n * C)."""
    return x.permute(1, 2, 0, 3).reshape(1, *x.shape[1:3], -1)
