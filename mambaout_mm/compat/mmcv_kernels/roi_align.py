"""RoIAlign with average pooling."""

from __future__ import annotations

import torch
from torch import Tensor

from .as_compiled import as_compiled, widened


@as_compiled
def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """RoIAlign with average pooling (mmcv/ops/roi_align.py).

    Args:
        input (Tensor): Feature map of shape (N, C, H, W), floating, any memory format.
        rois (Tensor): ``(batch index, x1, y1, x2, y2)`` of shape (K, 5).
        output (Tensor): Output of shape (K, C, aligned_height, aligned_width).
        argmax_y (Tensor): Only for maximum pooling; not used.
        argmax_x (Tensor): Only for maximum pooling; not used.
        aligned_height (int): Height of the output.
        aligned_width (int): Width of the output.
        spatial_scale (float): Size of the feature map relative to the boxes' image.
        sampling_ratio (int): Samples per bin and direction; 0 adapts them to the box.
        pool_mode (int): 1 for average pooling.
        aligned (bool): Whether pixel centres lie at half coordinates.

    Raises:
        NotImplementedError: If ``pool_mode`` is 0, maximum pooling.
    """
    _require_average(pool_mode)
    input, rois = widened(input, rois)
    output.copy_(
        torch.ops.torchvision.roi_align(
            input, rois, spatial_scale, aligned_height, aligned_width, sampling_ratio, aligned
        )
    )


@as_compiled
def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Adds the gradient of :func:`roi_align_forward` to ``grad_input``.

    Args:
        grad_output (Tensor): Shape (K, C, aligned_height, aligned_width).
        rois (Tensor): See :func:`roi_align_forward`, as the arguments that follow.
        argmax_y (Tensor): Not used.
        argmax_x (Tensor): Not used.
        grad_input (Tensor): Output of shape (N, C, H, W).
        aligned_height (int): Height of the output.
        aligned_width (int): Width of the output.
        spatial_scale (float): Size of the feature map relative to the boxes' image.
        sampling_ratio (int): Samples per bin and direction.
        pool_mode (int): 1 for average pooling.
        aligned (bool): Whether pixel centres lie at half coordinates.

    Raises:
        NotImplementedError: If ``pool_mode`` is 0, maximum pooling.
    """
    _require_average(pool_mode)
    grad_output, rois = widened(grad_output, rois)
    grad_input += torch.ops.torchvision._roi_align_backward(
        grad_output,
        rois,
        spatial_scale,
        aligned_height,
        aligned_width,
        *grad_input.shape,
        sampling_ratio,
        aligned,
    )


def _require_average(pool_mode: int) -> None:
    if pool_mode != 1:
        raise NotImplementedError(
            'roi_align with pool_mode="max" needs mmcv\'s compiled operators; '
            'without them only pool_mode="avg" is available'
        )
