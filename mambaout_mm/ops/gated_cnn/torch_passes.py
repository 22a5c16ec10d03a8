"""Passes over the maps of a Gated CNN block on a CPU in PyTorch's operations.

``cpu.py`` makes the branch of them. With ``g, i = split(gi)`` the gate is
``act(g) * cat(i, mixed)``, where ``mixed`` is the convolution's output. Maps are (N, H, W, C),
which is PyTorch's channels-last memory.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

aten = torch.ops.aten

# Elements of the gradient in one convolution of `conv_gradients`: one or two megabytes, what the
# caches hold.
STRIP_ELEMENTS = 1 << 19


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """LayerNorm over the last dimension, in ``dtype``."""
    return F.layer_norm(x, x.shape[-1:], weight, bias, eps).to(dtype)


def layer_norm_backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias, given the gradient of :func:`layer_norm`'s output."""
    _, mean, rstd = torch.native_layer_norm(x, x.shape[-1:], weight, bias, eps)
    return aten.native_layer_norm_backward(
        grad.to(x.dtype), x, x.shape[-1:], mean, rstd, weight, bias, [True] * 3
    )


def gate(gi: Tensor, mixed: Tensor, activation: str) -> Tensor:
    """``act(g) * cat(i, mixed)``.

    Args:
        gi (Tensor): (N, H, W, 2h - Cc).
        mixed (Tensor): (N, H, W, Cc).
        activation (str): 'gelu' or 'silu'.

    Returns:
        Tensor: (N, H, W, h).
    """
    hidden, inner = _widths(gi, mixed)
    y = _activate(gi[..., :hidden], activation)
    y[..., :inner].mul_(gi[..., hidden:])
    y[..., inner:].mul_(mixed)
    return y


def gate_backward(
    grad: Tensor, gi: Tensor, mixed: Tensor, activation: str, grad_mixed: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of :func:`gate`, and the gate once more.

    Args:
        grad (Tensor): Of the gate, (N, H, W, h).
        gi, mixed, activation: Arguments of :func:`gate`.
        grad_mixed (Tensor): Gets the gradient of ``mixed``.

    Returns:
        tuple[Tensor, Tensor, Tensor]: The gate; the gradient of ``gi``; its sum over all pixels.
    """
    hidden, inner = _widths(gi, mixed)
    g, i = gi.split((hidden, inner), dim=-1)
    grad_gi = torch.empty_like(gi)
    gate = _activate(g, activation)
    torch.mul(grad[..., :inner], gate[..., :inner], out=grad_gi[..., hidden:])
    torch.mul(grad[..., inner:], gate[..., inner:], out=grad_mixed)
    grad_act = torch.empty_like(gate)
    for part, factor in ((slice(0, inner), i), (slice(inner, hidden), mixed)):
        torch.mul(grad[..., part], factor, out=grad_act[..., part])
        gate[..., part].mul_(factor)
    backward = aten.gelu_backward if activation == 'gelu' else aten.silu_backward
    backward.grad_input(grad_act, g, grad_input=grad_gi[..., :hidden])
    return gate, grad_gi, column_sums(grad_gi)


def conv_gradients(c: Tensor, grad: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Gradients of a depthwise convolution's weight and bias, in float32 at least.

    grad_w[v, u] = sum over y, x of c[y + v, x + u] grad[y, x] is a convolution too: of c, with
    ``grad`` as the kernel. It is computed for a strip of rows at a time, because oneDNN is fast
    only while a kernel fits the cache. Small images lie side by side as channels, so that each call
    has enough to do. oneDNN's own weight gradient of a channels-last depthwise convolution takes 15
    to 60 times as long as its forward pass.

    Args:
        c (Tensor): The convolution's input, (N, H, W, Cc).
        grad (Tensor): Gradient of the convolution's output, (N, H, W, Cc).
        size (int): Side of the kernel, odd.

    Returns:
        tuple[Tensor, Tensor]: (Cc, 1, size, size) and (Cc,).
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
    return total.permute(2, 0, 1)[:, None], column_sums(grad)


def column_sums(x: Tensor) -> Tensor:
    """Sum over all but the last dimension.

    In the dtype of ``x``: PyTorch adds bfloat16 up in float32 anyway; for a float32 result it would
    copy ``x`` first.
    """
    return x.sum((0, 1, 2))


def _widths(gi: Tensor, mixed: Tensor) -> tuple[int, int]:
    """Widths of g and i."""
    hidden = (gi.shape[-1] + mixed.shape[-1]) // 2
    return hidden, gi.shape[-1] - hidden


def _activate(g: Tensor, activation: str) -> Tensor:
    """GELU (exact) or SiLU of ``g``, in new contiguous memory."""
    y = g.new_empty(g.shape)
    return aten.gelu.out(g, out=y) if activation == 'gelu' else aten.silu.out(g, out=y)


def _side_by_side(x: Tensor) -> Tensor:
    """(n, H, W, C) to (1, H, W, n * C)."""
    return x.permute(1, 2, 0, 3).reshape(1, *x.shape[1:3], -1)
