"""Definition of the operator, in PyTorch's operations."""

import torch.nn.functional as F
from torch import Tensor


def causal_conv_silu_reference(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``silu(conv(x))``; see :func:`causal_conv_silu`."""
    groups, length, channels = x.shape[1:]
    z = F.conv1d(
        x.transpose(2, 3).flatten(1, 2),  # (N, G * E, L)
        weight,
        bias,
        padding=(weight.shape[-1] - 1,),  # PyTorch 2.1 traces a size as a tensor
        groups=groups * channels,
    )
    return F.silu(z[..., :length]).unflatten(1, (groups, -1)).transpose(2, 3)
