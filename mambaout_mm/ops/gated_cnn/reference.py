"""The definition of a Gated CNN block's branch, in plain operations."""

import torch.nn.functional as F
from torch import Tensor

from ..gated_conv.reference import gated_conv_reference


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
    """``fc2(gated_conv(fc1(norm(x))))``.

    Arguments and result: :func:`mambaout_mm.ops.gated_cnn.gated_cnn`.
    """
    x = F.layer_norm(x, x.shape[-1:], norm_weight, norm_bias, eps)
    x = F.linear(x, fc1_weight, fc1_bias)  # (N, H, W, 2h)
    x = gated_conv_reference(x, conv_weight, conv_bias, fc2_weight.shape[1], activation)
    return F.linear(x, fc2_weight, fc2_bias)  # (N, H, W, C)
