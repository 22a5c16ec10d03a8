"""The gated convolution on a CPU: PyTorch's operations, few full-size intermediates."""

import torch
import torch.nn.functional as F
from torch import Tensor

aten = torch.ops.aten

# Elements of dy in one kernel of `weight_gradient`: one or two megabytes, what the caches hold.
TILE = 1 << 19


def forward(x: Tensor, weight: Tensor, bias: Tensor, hidden: int, activation: str) -> Tensor:
    """Output (N, H, W, hidden)."""
    weight, bias = weight.to(x.dtype), bias.to(x.dtype)
    inner = hidden - weight.shape[0]
    g, i, c = x.split((hidden, inner, weight.shape[0]), dim=-1)
    y = activate(g, activation)
    y[..., :inner].mul_(i)
    y[..., inner:].mul_(convolve(c, weight, bias))
    return y


def backward(
    grad_y: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    hidden: int,
    activation: str,
    with_output: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Gradients of x, weight and bias, and the output once more if ``with_output``."""
    dtype, bias_dtype = weight.dtype, bias.dtype
    weight, bias = weight.to(x.dtype), bias.to(x.dtype)
    inner = hidden - weight.shape[0]
    g, i, c = x.split((hidden, inner, weight.shape[0]), dim=-1)
    grad_x = torch.empty_like(x, memory_format=torch.contiguous_format)
    grad_mixed = torch.empty_like(c, memory_format=torch.contiguous_format)
    grad_gi = grad_x[..., : hidden + inner]
    y = gate_backward(grad_y, g, i, convolve(c, weight, bias), activation, grad_gi, grad_mixed)
    grad_x[..., hidden + inner :] = input_gradient(grad_mixed, weight)
    grad_weight = weight_gradient(c, grad_mixed, weight.shape[-1]).to(dtype)
    grad_bias = column_sums(grad_mixed).to(bias_dtype)
    return grad_x, grad_weight, grad_bias, y if with_output else None


def gate_backward(
    grad_y: Tensor,
    g: Tensor,
    i: Tensor,
    mixed: Tensor,
    activation: str,
    grad_gi: Tensor,
    grad_mixed: Tensor,
) -> Tensor:
    """Gradients of ``y = act(g) * cat(i, mixed)``, written into the last two arguments.

    Args:
        grad_y, g (Tensor): (N, H, W, h).
        i (Tensor): (N, H, W, h - Cc).
        mixed (Tensor): The convolution's output, (N, H, W, Cc).
        activation (str): 'gelu' or 'silu'.
        grad_gi (Tensor): Takes the gradients of g and i, (N, H, W, 2h - Cc).
        grad_mixed (Tensor): Takes the gradient of ``mixed``.

    Returns:
        Tensor: y, (N, H, W, h).
    """
    hidden, inner = g.shape[-1], i.shape[-1]
    y = activate(g, activation)
    torch.mul(grad_y[..., :inner], y[..., :inner], out=grad_gi[..., hidden:])
    torch.mul(grad_y[..., inner:], y[..., inner:], out=grad_mixed)
    grad_act = torch.empty_like(y)
    for part, factor in ((slice(0, inner), i), (slice(inner, hidden), mixed)):
        torch.mul(grad_y[..., part], factor, out=grad_act[..., part])
        y[..., part].mul_(factor)
    activate_backward(grad_act, g, activation, grad_gi[..., :hidden])
    return y


def activate(g: Tensor, activation: str) -> Tensor:
    """GELU (exact) or SiLU, in contiguous memory of its own."""
    y = g.new_empty(g.shape)
    return aten.gelu.out(g, out=y) if activation == 'gelu' else aten.silu.out(g, out=y)


def activate_backward(grad: Tensor, g: Tensor, activation: str, out: Tensor) -> None:
    """Gradient of ``g`` into ``out``."""
    backward = aten.gelu_backward if activation == 'gelu' else aten.silu_backward
    backward.grad_input(grad, g, grad_input=out)


def convolve(c: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Depthwise convolution with zero padding, (N, H, W, Cc) to the same."""
    padding = weight.shape[-1] // 2
    y = F.conv2d(c.permute(0, 3, 1, 2), weight, bias, padding=padding, groups=weight.shape[0])
    return y.permute(0, 2, 3, 1)


def input_gradient(grad: Tensor, weight: Tensor) -> Tensor:
    """Gradient of :func:`convolve`'s input: the convolution with the turned kernel.

    Which takes oneDNN's forward kernel, faster than its backward one.
    """
    return convolve(grad, weight.flip(2, 3), None)


def weight_gradient(c: Tensor, grad: Tensor, size: int) -> Tensor:
    """Gradient of :func:`convolve`'s weight, (Cc, 1, size, size), in float32 at least.

    dW[ky, kx] = sum over y, x of c[y + ky, x + kx] dy[y, x] is a convolution too, of c with dy as
    the kernel. A strip of dy's rows at a time, because oneDNN is fast only while a kernel fits the
    cache; small images side by side as channels, so that each call has enough to do. oneDNN's own
    weight gradient of a channels-last depthwise convolution takes 15 to 60 times its forward.
    """
    batch, height, width, channels = grad.shape
    pad = size // 2
    rows = max(1, min(height, round(TILE / (width * channels))))
    images = max(1, min(batch, TILE // (height * width * channels)))
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
    """Sum over all but the last dimension.

    PyTorch adds bfloat16 up in float32 anyway; asked for a float32 result it would copy x first.
    """
    return x.sum((0, 1, 2))


def _side_by_side(x: Tensor) -> Tensor:
    """(n, H, W, C) to (1, H, W, n * C)."""
    return x.permute(1, 2, 0, 3).reshape(1, *x.shape[1:3], -1)
