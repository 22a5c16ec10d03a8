"""Effective receptive field: how much each pixel of an image weighs in the middle of a map.

Luo et al., arXiv 1701.04128, measured as in RepLKNet (arXiv 2203.06717): the gradient of the middle
pixel's positive features, added up, with respect to the image.
"""

import numpy as np
import torch
from timm.layers import LayerScale, LayerScale2d
from timm.models.convnext import ConvNeXtBlock
from torch import nn


def noise(side: int, count: int) -> torch.Tensor:
    """Images (count, 3, side, side) of Gaussian noise, the same at every call."""
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def effective_fields(model: nn.Module, images: torch.Tensor, device: str) -> list[np.ndarray]:
    """Measure the effective receptive field in each map of a network.

    Args:
        model (nn.Module): Gives a tuple of maps (N, C, H, W); changed: it is moved to the device,
            and its parameters take no gradients any more.
        images (Tensor): To average over, (N, 3, H, W).
        device (str): 'cpu' or 'cuda'.

    Returns:
        list[np.ndarray]: For each map the contribution of each pixel, (H, W), at most 1.
    """
    model = model.to(device).requires_grad_(False)
    totals: list[torch.Tensor] = []
    for image in images.to(device):
        image = image[None].requires_grad_()
        outs = model(image)
        for i, out in enumerate(outs):
            middle = out[0, :, out.shape[2] // 2, out.shape[3] // 2]
            (gradient,) = torch.autograd.grad(
                middle.relu().sum(), image, retain_graph=i + 1 < len(outs)
            )
            contribution = gradient[0].abs().sum(0)  # (H, W)
            if i == len(totals):
                totals.append(contribution)
            else:
                totals[i] += contribution
    return [(total / total.max()).cpu().numpy() for total in totals]


def open_layer_scales(model: nn.Module) -> None:
    """Set every layer scale to 1, in place."""
    for module in model.modules():
        scaled = isinstance(module, LayerScale | LayerScale2d | ConvNeXtBlock)
        if scaled and module.gamma is not None:
            nn.init.ones_(module.gamma)


def side_holding(field: np.ndarray, percent: float) -> float:
    """Side in pixels of the smallest square with this much of the gradient.

    The square is around the gradient's centre of mass: which pixel is a token's middle depends on
    the padding of the layers before.

    Args:
        field (np.ndarray): Of :func:`effective_fields`.
        percent (float): Of the gradient.
    """
    values = field.astype(np.float64)
    distances = []
    for axis in (0, 1):
        share = values.sum(1 - axis) / values.sum()
        pixels = np.arange(share.size)
        distances.append(np.abs(pixels - share @ pixels))
    distance = np.maximum(distances[0][:, None], distances[1])  # (H, W)
    order = np.argsort(distance, axis=None, kind='stable')
    held = np.cumsum(values.ravel()[order])
    last = np.searchsorted(held, (1 - 1e-9) * percent / 100 * held[-1])
    return 2 * float(distance.ravel()[order[last]]) + 1
