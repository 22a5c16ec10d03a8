"""The depthwise convolution of the visual Mambas as a layer."""

from torch import Tensor, nn

from mambaout_mm.ops.depthwise import depthwise_conv
from mambaout_mm.ops.modes import exporting


class DepthwiseConv2d(nn.Conv2d):
    """``nn.Conv2d`` of one channel at a time that keeps the map's size, by this project's operator.

    Args:
        channels (int): Of the map.
        kernel_size (int): Odd.
        bias (bool): Whether there is one. Defaults to True.
    """

    def __init__(self, channels: int, kernel_size: int, bias: bool = True) -> None:
        super().__init__(
            channels, channels, kernel_size, padding=kernel_size // 2, groups=channels, bias=bias
        )

    def forward(self, x: Tensor) -> Tensor:
        if exporting() or x.dim() != 4:  # with sizes as constants; without a batch
            return super().forward(x)
        return depthwise_conv(x, self.weight, self.bias)
