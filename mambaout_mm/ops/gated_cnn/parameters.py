"""The parameters of a Gated CNN block's branch, or their gradients."""

from typing import NamedTuple

import torch
from torch import Tensor


class Parameters(NamedTuple):
    """Norm (C,), fc1 (2h, C), depthwise convolution (Cc, 1, k, k), fc2 (C, h); each with a bias."""

    norm_weight: Tensor
    norm_bias: Tensor
    fc1_weight: Tensor
    fc1_bias: Tensor
    conv_weight: Tensor
    conv_bias: Tensor
    fc2_weight: Tensor
    fc2_bias: Tensor

    @staticmethod
    def shapes(channels: int, hidden: int, conv_dim: int, size: int) -> tuple[tuple[int, ...], ...]:
        """The shape that each parameter is to have.

        Args:
            channels (int): Width C of the block.
            hidden (int): Width h of the gate.
            conv_dim (int): Width Cc of the convolution.
            size (int): Side of the convolution's kernel.
        """
        return (
            (channels,),
            (channels,),
            (2 * hidden, channels),
            (2 * hidden,),
            (conv_dim, 1, size, size),
            (conv_dim,),
            (channels, hidden),
            (channels,),
        )

    @property
    def widths(self) -> tuple[int, int, int]:
        """Widths of g, i and c; those of i and c add up to that of g, h."""
        hidden, conv_dim = self.fc2_weight.shape[1], self.conv_weight.shape[0]
        return hidden, hidden - conv_dim, conv_dim

    def to(self, dtype: torch.dtype) -> 'Parameters':
        """The parameters in ``dtype``, except the norm's, which keep their own dtype."""
        norm_weight, norm_bias, *others = self
        return Parameters(norm_weight, norm_bias, *(other.to(dtype) for other in others))
