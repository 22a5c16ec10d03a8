"""Synthetic batches with something in them to learn, for timing training without a data set."""

import torch
import torch.nn.functional as F
from torch import Tensor

OBJECTS = 8


def detection_samples(batch: int, size: tuple[int, int], generator: torch.Generator) -> dict:
    """A batch for Mask R-CNN: ellipses on noise, each class in a colour of its own.

    Args:
        batch (int): Number of images.
        size (tuple[int, int]): Height and width.
        generator (torch.Generator): Source of the random numbers.

    Returns:
        dict: Inputs and data samples as mmdet's data loaders collate them.
    """
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    height, width = size
    y, x = torch.arange(height)[:, None], torch.arange(width)
    images, samples = [], []
    for _ in range(batch):
        sides = torch.rand(OBJECTS, 2, generator=generator) * 0.4 + 0.1
        corners = torch.rand(OBJECTS, 2, generator=generator) * (1 - sides)
        boxes = torch.cat((corners, corners + sides), dim=1) * torch.tensor([width, height] * 2)
        labels = torch.randint(80, (OBJECTS,), generator=generator)
        classes = torch.zeros(size, dtype=torch.long)  # 0 is the background
        masks = []
        for (x1, y1, x2, y2), label in zip(boxes, labels, strict=True):
            u, v = (2 * x - x1 - x2) / (x2 - x1), (2 * y - y1 - y2) / (y2 - y1)
            inside = u**2 + v**2 <= 1  # (H, W)
            classes[inside] = label + 1
            masks.append(inside)
        images.append(paint(classes, generator))
        sample = DetDataSample(metainfo=dict(img_shape=size, ori_shape=size, scale_factor=(1, 1)))
        sample.gt_instances = InstanceData(
            bboxes=boxes,
            labels=labels,
            masks=BitmapMasks(torch.stack(masks).to(torch.uint8).numpy(), *size),
        )
        samples.append(sample)
    return dict(inputs=images, data_samples=samples)


def segmentation_samples(batch: int, size: tuple[int, int], generator: torch.Generator) -> dict:
    """A batch for UperNet: a grid of rectangles, each class in a colour of its own.

    Args:
        batch (int): Number of images.
        size (tuple[int, int]): Height and width.
        generator (torch.Generator): Source of the random numbers.

    Returns:
        dict: Inputs and data samples as mmseg's data loaders collate them.
    """
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    images, samples = [], []
    for _ in range(batch):
        grid = torch.randint(150, (1, 1, 8, 8), generator=generator)
        classes = F.interpolate(grid.float(), size)[0].long()  # (1, H, W)
        images.append(paint(classes[0], generator))
        sample = SegDataSample(metainfo=dict(img_shape=size, ori_shape=size))
        sample.gt_sem_seg = PixelData(data=classes)
        samples.append(sample)
    return dict(inputs=images, data_samples=samples)


def paint(classes: Tensor, generator: torch.Generator) -> Tensor:
    """An image of shape (3, H, W), uint8: a colour for each class, with noise."""
    channels = torch.stack([classes * step % 200 for step in (37, 91, 151)])
    noise = torch.randint(56, channels.shape, generator=generator)
    return (channels + noise).to(torch.uint8)
