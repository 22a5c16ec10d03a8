"""The definition of a depthwise convolution."""

import torch.nn.functional as F
from torch import Tensor


def depthwise_conv_reference(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Arguments and result: :func:`mambaout_mm.ops.depthwise.depthwise_conv`."""
    return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, groups=len(weight))
