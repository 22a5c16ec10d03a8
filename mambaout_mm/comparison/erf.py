"""Effective receptive field: how much each pixel of an image weighs in the middle of a map.

Luo et al., arXiv 1701.04128, measured as in RepLKNet (arXiv 2203.06717): the gradient of the middle
pixel's positive features, added up, with respect to the image.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from timm.layers import LayerScale, LayerScale2d
from timm.models.convnext import ConvNeXtBlock
from torch import nn

from .catalogue import Entry, build_without_pyramid, maps_of, stages_of
from .records import Record

SHARES = (50, 95)


class ErfMap(NamedTuple):
    """What one stage's middle sees.

    Attributes:
        backbone (str): Name of the entry.
        stage (int): 1 for stride 4 to 4 for stride 32.
        size (str): Of the images, '512x512'.
        weights (str): 'random' or the checkpoint.
        values (np.ndarray): (H, W), the contribution of each pixel, at most 1.
    """

    backbone: str
    stage: int
    size: str
    weights: str
    values: np.ndarray


def erf_maps(
    entry: Entry, side: int, images: int = 4, checkpoint: str | None = None, device: str = 'cpu'
) -> list[ErfMap]:
    """Measure the effective receptive field of each stage.

    Images are Gaussian noise, the same for every backbone. With random weights, layer scales are
    set to 1: at the 1e-6 that ConvNeXt starts from, no block would pass anything on.

    Args:
        entry (Entry): The backbone.
        side (int): Height and width of the images.
        images (int): How many to average over. Defaults to 4.
        checkpoint (str, optional): Weights, as ``init_cfg``'s. Defaults to None, random ones.
        device (str): Defaults to 'cpu'.

    Returns:
        list[ErfMap]: One for each stage; for a plain network one, of its last map.
    """
    model = build_without_pyramid(entry, checkpoint)
    if not checkpoint:
        open_layer_scales(model)
    stages = stages_of(maps_of(model)[1])
    model = model.to(device).requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    batch = torch.randn(images, 3, side, side, generator=generator)
    totals: list[torch.Tensor] = []
    for image in batch.to(device):
        image = image[None].requires_grad_()
        outs = model(image)
        for stage, out in enumerate(outs):
            middle = out[0, :, out.shape[2] // 2, out.shape[3] // 2]
            (gradient,) = torch.autograd.grad(
                middle.relu().sum(), image, retain_graph=stage + 1 < len(outs)
            )
            seen = gradient[0].abs().sum(0)  # (H, W)
            if stage == len(totals):
                totals.append(seen)
            else:
                totals[stage] += seen
    return [
        ErfMap(
            entry.name,
            stage,
            f'{side}x{side}',
            checkpoint or 'random',
            (total / total.max()).cpu().numpy(),
        )
        for total, stage in zip(totals, stages, strict=True)
    ]


def open_layer_scales(model: nn.Module) -> None:
    """Set every layer scale to 1, in place."""
    for module in model.modules():
        scaled = isinstance(module, LayerScale | LayerScale2d | ConvNeXtBlock)
        if scaled and module.gamma is not None:
            nn.init.ones_(module.gamma)


def side_holding(erf: ErfMap, percent: float) -> float:
    """Side in pixels of the smallest square with this much of the gradient.

    The square is around the gradient's centre of mass: which pixel is a token's middle depends on
    the padding of the layers before.
    """
    values = erf.values.astype(np.float64)
    distances = []
    for axis in (0, 1):
        share = values.sum(1 - axis) / values.sum()
        places = np.arange(share.size)
        distances.append(np.abs(places - share @ places))
    distance = np.maximum(distances[0][:, None], distances[1])  # (H, W)
    order = np.argsort(distance, axis=None, kind='stable')
    held = np.cumsum(values.ravel()[order])
    last = np.searchsorted(held, (1 - 1e-9) * percent / 100 * held[-1])
    return 2 * float(distance.ravel()[order[last]]) + 1


def erf_records(entry: Entry, maps: list[ErfMap]) -> Iterator[Record]:
    """Sides of the squares that hold half of the gradient, and nearly all of it."""
    for erf in maps:
        for percent in SHARES:
            yield Record(
                section='receptive field',
                backbone=entry.name,
                mixer=entry.mixer,
                quantity=f'side holding {percent} % of the gradient',
                setting=f'stage {erf.stage}',
                size=erf.size,
                value=side_holding(erf, percent),
                unit='px',
                origin='measured',
                note=(
                    'random weights, layer scales at 1'
                    if erf.weights == 'random'
                    else f'weights: {erf.weights}'
                ),
            )
