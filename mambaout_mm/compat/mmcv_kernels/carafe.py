"""CARAFE: upsampling in which each output pixel weighs the neighbourhood of its source pixel.

With ``s = scale_factor``, ``K = kernel_size`` and the channels in ``group_size`` groups::

    output[n, c, y, x] = sum over i, j < K of
        features[n, c, y // s + i - K // 2, x // s + j - K // 2]
        * masks[n, group(c) * K * K + i * K + j, y, x]

where the features are zero outside of the map (``carafe_naive_cuda_kernel.cuh`` of mmcv).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from .as_compiled import as_compiled, widened


@as_compiled
def carafe_naive_forward(
    features: Tensor,
    masks: Tensor,
    output: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """CARAFE (mmcv/ops/carafe.py).

    Args:
        features (Tensor): Shape (N, C, H, W), floating.
        masks (Tensor): Shape (N, group_size * kernel_size ** 2, s * H, s * W).
        output (Tensor): Output of shape (N, C, s * H, s * W).
        kernel_size (int): Side of the neighbourhood, odd.
        group_size (int): Groups of channels; each has masks of its own.
        scale_factor (int): ``s``.
    """
    features, masks = widened(features, masks)
    masks = _by_source(masks, group_size, scale_factor)
    n, c, h, w = features.shape
    sums = features.new_zeros(n, group_size, c // group_size, h, scale_factor, w, scale_factor)
    padded = _padded(features, kernel_size)
    for tap, window in enumerate(_windows(padded, kernel_size, group_size)):
        sums.addcmul_(window[..., :, None, :, None], masks[:, :, tap, None])
    output.copy_(sums.view(output.shape))


@as_compiled
def carafe_naive_backward(
    top_grad: Tensor,
    features: Tensor,
    masks: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Gradients of :func:`carafe_naive_forward`, added to the tensors for them.

    Args:
        top_grad (Tensor): Shape (N, C, s * H, s * W).
        features (Tensor): The forward pass's features, as the arguments not listed here.
        masks (Tensor): The forward pass's masks.
        bottom_grad (Tensor): Output of the shape of ``features``, added to.
        mask_grad (Tensor): Output of the shape of ``masks``, added to.
    """
    top_grad, features, masks = widened(top_grad, features, masks)
    n, c, h, w = features.shape
    masks = _by_source(masks, group_size, scale_factor)
    size = (n, group_size, c // group_size, h, scale_factor, w, scale_factor)
    # For each source pixel a matrix of channels and of its s * s outputs
    top_grad = top_grad.reshape(size).permute(0, 1, 3, 5, 2, 4, 6).flatten(-2)
    weights = masks.permute(0, 1, 3, 5, 2, 4, 6).flatten(-2)  # (N, groups, H, W, K * K, s * s)
    grads_of_weights = torch.zeros_like(weights)
    padded = _padded(features, kernel_size)
    padded_grad = torch.zeros_like(padded)
    windows = list(_windows(padded, kernel_size, group_size))
    windows_of_grad = list(_windows(padded_grad, kernel_size, group_size))
    for row in range(0, kernel_size**2, kernel_size):
        taps = slice(row, row + kernel_size)
        grads = top_grad @ weights[..., taps, :].transpose(-1, -2)  # (N, groups, H, W, C', K)
        for window, grad in zip(windows_of_grad[taps], grads.unbind(-1), strict=True):
            window += grad.movedim(-1, 2)
        below = torch.stack(windows[taps]).permute(1, 2, 4, 5, 0, 3)  # (N, groups, H, W, K, C')
        grads_of_weights[..., taps, :] = below @ top_grad
    reach = kernel_size // 2
    bottom_grad += padded_grad[:, :, reach : reach + h, reach : reach + w]
    grads_of_masks = grads_of_weights.unflatten(-1, (scale_factor, scale_factor))
    mask_grad += grads_of_masks.permute(0, 1, 4, 2, 5, 3, 6).reshape(mask_grad.shape)


@as_compiled
def carafe_forward(
    features: Tensor,
    masks: Tensor,
    rfeatures: Tensor,
    routput: Tensor,
    rmasks: Tensor,
    output: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """CARAFE, keeping the features for the backward pass, which is not given them otherwise.

    Args:
        features (Tensor): See :func:`carafe_naive_forward`, as the arguments not listed here.
        masks (Tensor): The masks.
        rfeatures (Tensor): Output of the shape of ``features``; receives them. The compiled
            operator puts channels last in it; only :func:`carafe_backward` reads it.
        routput (Tensor): Scratch of the compiled operator; not used, as ``rmasks``.
        rmasks (Tensor): Not used.
        output (Tensor): Output of shape (N, C, s * H, s * W).
    """
    rfeatures.copy_(features)
    carafe_naive_forward(features, masks, output, kernel_size, group_size, scale_factor)


@as_compiled
def carafe_backward(
    top_grad: Tensor,
    rfeatures: Tensor,
    masks: Tensor,
    rtop_grad: Tensor,
    rbottom_grad_hs: Tensor,
    rbottom_grad: Tensor,
    rmask_grad: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Gradients of :func:`carafe_forward`, written into the tensors for them.

    Args:
        top_grad (Tensor): Shape (N, C, s * H, s * W).
        rfeatures (Tensor): What the forward pass kept.
        masks (Tensor): The forward pass's masks.
        rtop_grad (Tensor): Scratch of the compiled operator; not used, as ``rbottom_grad_hs``,
            ``rbottom_grad`` and ``rmask_grad``.
        bottom_grad (Tensor): Output of the shape of the features.
        mask_grad (Tensor): Output of the shape of ``masks``.
    """
    geometry = (kernel_size, group_size, scale_factor)
    bottom_grad.zero_()
    mask_grad.zero_()
    carafe_naive_backward(top_grad, rfeatures, masks, bottom_grad, mask_grad, *geometry)


def _by_source(masks: Tensor, groups: int, scale: int) -> Tensor:
    """Masks as (N, groups, K * K, H, s, W, s): the weights of a source pixel's s x s outputs."""
    n, channels, h, w = masks.shape
    return masks.reshape(n, groups, channels // groups, h // scale, scale, w // scale, scale)


def _padded(features: Tensor, kernel_size: int) -> Tensor:
    return F.pad(features, (kernel_size // 2,) * 4)


def _windows(padded: Tensor, kernel_size: int, groups: int) -> Iterator[Tensor]:
    """The map under each tap of the kernel, row by row: views of (N, groups, C / groups, H, W)."""
    grouped = padded.unflatten(1, (groups, -1))
    h, w = (side - kernel_size + 1 for side in padded.shape[2:])
    for i in range(kernel_size):
        for j in range(kernel_size):
            yield grouped[..., i : i + h, j : j + w]
