"""The definition of the gated convolution, in plain operations."""

import torch
import torch.nn.functional as F
from torch import Tensor

ACTIVATIONS = {'gelu': F.gelu, 'silu': F.silu}


def gated_conv_reference(
    x: Tensor, weight: Tensor, bias: Tensor, hidden: int, activation: str
) -> Tensor:
    """``act(g) * cat(i, dwconv(c))`` with ``g, i, c = split(x)``; differentiable in any order.

    Arguments and result: :func:`mambaout_mm.ops.gated_conv.gated_conv`.
    """
    conv_dim, kernel_size = weight.shape[0], weight.shape[-1]
    g, i, c = x.split((hidden, hidden - conv_dim, conv_dim), dim=-1)
    c = F.conv2d(c.permute(0, 3, 1, 2), weight, bias, padding=kernel_size // 2, groups=conv_dim)
    return ACTIVATIONS[activation](g) * torch.cat((i, c.permute(0, 2, 3, 1)), dim=-1)


def forward(x: Tensor, weight: Tensor, bias: Tensor, hidden: int, activation: str) -> Tensor:
    """Output (N, H, W, hidden)."""
    weight, bias = weight.to(x.dtype), bias.to(x.dtype)
    return gated_conv_reference(x, weight, bias, hidden, activation)


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
    leaves = [tensor.detach().requires_grad_() for tensor in (x, weight, bias)]
    with torch.enable_grad():
        y = forward(*leaves, hidden, activation)
    return *torch.autograd.grad(y, leaves, grad_y), y.detach() if with_output else None
