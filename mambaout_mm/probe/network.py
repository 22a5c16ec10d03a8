"""A backbone with a head that sees one pixel, so that what is measured is the backbone."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from torch import Tensor, nn
from torch.nn import functional as F

from .curves import CLASSES, IGNORED, MARKED

WIDTH = 64  # channels of the head


class PixelHead(nn.Module):
    """A class for each pixel, out of what the maps hold at that place and nowhere else.

    Maps go to one width by 1x1 convolutions, are repeated to the first map's size and added. Two
    more 1x1 convolutions give all pixels that a place of the first map covers.

    Args:
        in_channels (Sequence[int]): Of the maps.
        strides (Sequence[int]): Of the maps.
    """

    def __init__(self, in_channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.laterals = nn.ModuleList(nn.Conv2d(channels, WIDTH, 1) for channels in in_channels)
        self.classify = nn.Sequential(
            nn.GELU(),
            nn.Conv2d(WIDTH, WIDTH, 1),
            nn.GELU(),
            nn.Conv2d(WIDTH, CLASSES * strides[0] ** 2, 1),
            nn.PixelShuffle(strides[0]),
        )

    def fuse(self, maps: Sequence[Tensor]) -> Tensor:
        """All maps as one of the first map's size, (N, WIDTH, h, w)."""
        height, width = maps[0].shape[2:]
        fused = 0
        for x, lateral, stride in zip(maps, self.laterals, self.strides, strict=True):
            times = stride // self.strides[0]
            x = F.interpolate(lateral(x), scale_factor=times)  # each place repeated
            fused = fused + x[..., :height, :width]
        return fused

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Logits (N, CLASSES, H, W) of an image of that size."""
        return self.classify(self.fuse(maps))[..., : size[0], : size[1]]


class Probe(BaseModel):
    """A backbone and a :class:`PixelHead`, as MMEngine's Runner trains them.

    Classes weigh as much as they are rare: curves cover a few percent of an image.

    Args:
        backbone (nn.Module): Gives a tuple of maps; has ``out_channels`` and ``out_strides``.
        weights (Sequence[float]): Of the classes, in the loss.
    """

    def __init__(self, backbone: nn.Module, weights: Sequence[float]) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = PixelHead(backbone.out_channels, backbone.out_strides)
        self.register_buffer(
            'weights', torch.tensor(weights, dtype=torch.float32), persistent=False
        )

    def forward(
        self,
        inputs: Tensor,
        labels: Tensor | None = None,
        distances: Tensor | None = None,
        mode: str = 'tensor',
    ) -> Any:
        """Logits; in mode 'loss' the loss, in 'predict' counts of pixels for :class:`MarkedIoU`.

        Args:
            inputs (Tensor): (N, 3, H, W).
            labels (Tensor, optional): (N, H, W).
            distances (Tensor, optional): The number of each image's distance, (N,).
            mode (str): MMEngine's. Defaults to 'tensor'.
        """
        logits = self.head(self.backbone(inputs), inputs.shape[2:])  # (N, CLASSES, H, W)
        if mode == 'tensor':
            return logits
        if mode == 'loss':
            loss = F.cross_entropy(logits, labels, self.weights, ignore_index=IGNORED)
            return dict(loss=loss)
        counted = labels != IGNORED
        found, true = (logits.argmax(1) == MARKED) & counted, (labels == MARKED) & counted
        both = (found & true).sum((1, 2)).tolist()
        either = (found | true).sum((1, 2)).tolist()
        return list(zip(distances.tolist(), both, either, strict=True))


class FusedMap(nn.Module):
    """What a probe's classes are decided by, as a tuple of maps: for its effective field."""

    def __init__(self, probe: Probe) -> None:
        super().__init__()
        self.probe = probe

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (self.probe.head.fuse(self.probe.backbone(x)),)


class MarkedIoU(BaseMetric):
    """Intersection over union of the marked curves' pixels, over all images of each distance.

    Args:
        distances (Sequence[float]): As the data has them.
    """

    default_prefix = 'curves'

    def __init__(self, distances: Sequence[float]) -> None:
        super().__init__()
        self.distances = tuple(distances)

    def process(self, data_batch: Any, data_samples: Sequence[tuple[int, int, int]]) -> None:
        self.results.extend(data_samples)

    def compute_metrics(self, results: list[tuple[int, int, int]]) -> dict[str, float]:
        scores = {}
        for number, distance in enumerate(self.distances):
            pixels = [(both, either) for i, both, either in results if i == number]
            both, either = (sum(counts) for counts in zip(*pixels, strict=True))
            scores[f'iou_{distance:g}'] = both / max(either, 1)
        return scores
