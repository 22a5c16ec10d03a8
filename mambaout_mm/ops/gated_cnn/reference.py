"""The definition of a Gated CNN block's branch, in plain operations."""

import torch
import torch.nn.functional as F
from torch import Tensor

ACTIVATIONS = {'gelu': F.gelu, 'silu': F.silu}


def gated_cnn_reference(
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
    """``fc2(gate(fc1(norm(x))))``; differentiable in any order.

    Arguments and result: :func:`mambaout_mm.ops.gated_cnn.gated_cnn`.
    """
    x = F.layer_norm(x, x.shape[-1:], norm_weight, norm_bias, eps)
    h = F.linear(x, fc1_weight, fc1_bias)  # (N, H, W, 2h)
    gate = gate_reference(h, conv_weight, conv_bias, fc2_weight.shape[1], activation)
    return F.linear(gate, fc2_weight, fc2_bias)  # (N, H, W, C)


def gate_reference(
    h: Tensor, conv_weight: Tensor, conv_bias: Tensor, hidden: int, activation: str
) -> Tensor:
    """``act(g) * cat(i, dwconv(c))`` with ``g, i, c = split(h)`` along the last dimension.

    Args:
        h (Tensor): fc1's output, (N, H, W, 2 * hidden): g, ``hidden`` wide; i; and c, Cc wide.
        conv_weight (Tensor): (Cc, 1, k, k) with odd k; zeros of width k // 2 surround the map.
        conv_bias (Tensor): (Cc,).
        hidden (int): Width of g and of the result.
        activation (str): A key of ``ACTIVATIONS``.

    Returns:
        Tensor: (N, H, W, hidden).
    """
    conv_dim, kernel_size = conv_weight.shape[0], conv_weight.shape[-1]
    g, i, c = h.split((hidden, hidden - conv_dim, conv_dim), dim=-1)
    c = F.conv2d(
        c.permute(0, 3, 1, 2), conv_weight, conv_bias, padding=kernel_size // 2, groups=conv_dim
    )
    return ACTIVATIONS[activation](g) * torch.cat((i, c.permute(0, 2, 3, 1)), dim=-1)
