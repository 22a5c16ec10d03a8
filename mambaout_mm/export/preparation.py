"""The part of a graph that is the same for detectors and segmentors: from pixels to the network."""

import torch
import torch.nn.functional as F
from mmengine.model import ImgDataPreprocessor
from torch import Tensor, nn

from mambaout_mm.errors import UserError


class Preparation(nn.Module):
    """What a model's data preprocessor does to an image: colours, normalisation, padding.

    Args:
        preprocessor (nn.Module): mmdet's or mmseg's.

    Raises:
        UserError: If it does anything else.
    """

    def __init__(self, preprocessor: nn.Module) -> None:
        super().__init__()
        if getattr(preprocessor, 'test_cfg', None):
            raise UserError(
                'data_preprocessor.test_cfg pads images in testing, which the exported graph does '
                'not do; leave it out'
            )
        self.swaps_colours = preprocessor._channel_conversion
        normalises = preprocessor._enable_normalize
        self.register_buffer('mean', preprocessor.mean if normalises else torch.zeros(3, 1, 1))
        self.register_buffer('std', preprocessor.std if normalises else torch.ones(3, 1, 1))
        pads = isinstance(preprocessor, ImgDataPreprocessor)  # mmseg's pads in training alone
        self.divisor = preprocessor.pad_size_divisor if pads else 1

    def forward(self, image: Tensor) -> Tensor:
        """Pixels (1, 3, H, W), uint8, to what the backbone takes."""
        x = image.float()
        if self.swaps_colours:
            x = torch.stack((x[:, 2], x[:, 1], x[:, 0]), dim=1)
        x = (x - self.mean) / self.std
        if self.divisor > 1:
            height, width = x.shape[2:]
            x = F.pad(x, (0, -width % self.divisor, 0, -height % self.divisor))
        return x
