"""The gate of a Gated CNN block in plain operations, with its gradients by hand.

For devices other than CPUs where the Triton kernels do not run: in float64, and without Triton. By
hand because PyTorch records nothing for autograd inside an operator that it did not define.

Maps are (N, H, W, channels). With ``g, i, c = split(h)`` and m = cat(i, conv(c) + b)::

    gate = act(g) m             grad_g = grad_gate m act'(g)       grad_m = grad_gate act(g)

of which the parts of grad_m are grad_i and the gradient that goes into the convolution.
"""

import torch
from torch import Tensor

from .reference import ACTIVATIONS
from .reference import gate_reference as forward

__all__ = ['backward', 'forward']

aten = torch.ops.aten
ACTIVATIONS_BACKWARD = {'gelu': aten.gelu_backward, 'silu': aten.silu_backward}


def backward(
    grad_gate: Tensor,
    h: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    hidden: int,
    activation: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of h, conv_weight and conv_bias, and the gate once more.

    Args:
        grad_gate (Tensor): (N, H, W, hidden).
        h, conv_weight, conv_bias, hidden, activation: Arguments of ``forward``.

    Returns:
        tuple[Tensor, Tensor, Tensor, Tensor]: Three gradients, each in the shape of its tensor, and
        the gate, (N, H, W, hidden).
    """
    conv_dim, _, kernel_size, _ = conv_weight.shape
    g, i, c = h.split((hidden, hidden - conv_dim, conv_dim), dim=-1)
    c = c.permute(0, 3, 1, 2)  # (N, Cc, H, W)
    padding = kernel_size // 2
    mixed = torch.conv2d(c, conv_weight, conv_bias, padding=padding, groups=conv_dim)
    m = torch.cat((i, mixed.permute(0, 2, 3, 1)), dim=-1)  # (N, H, W, h)
    activated = ACTIVATIONS[activation](g)
    grad_g = ACTIVATIONS_BACKWARD[activation](grad_gate * m, g)
    grad_i, grad_mixed = (grad_gate * activated).split((hidden - conv_dim, conv_dim), dim=-1)
    grad_c, grad_weight, grad_bias = aten.convolution_backward(
        grad_mixed.permute(0, 3, 1, 2),
        c,
        conv_weight,
        bias_sizes=[conv_dim],
        stride=[1, 1],
        padding=[padding, padding],
        dilation=[1, 1],
        transposed=False,
        output_padding=[0, 0],
        groups=conv_dim,
        output_mask=[True, True, True],
    )
    grad_h = torch.cat((grad_g, grad_i, grad_c.permute(0, 2, 3, 1)), dim=-1)
    return grad_h, grad_weight, grad_bias, activated * m
