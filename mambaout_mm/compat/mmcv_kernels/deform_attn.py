"""Multi-scale deformable attention on an accelerator; on a CPU mmcv computes it by itself."""

from __future__ import annotations

import torch
from torch import Tensor

from .as_compiled import as_compiled, widened


@as_compiled
def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Multi-scale deformable attention (mmcv/ops/multi_scale_deform_attn.py).

    Args:
        value (Tensor): Shape (N, sum of H_l W_l, heads, channels of a head), floating.
        value_spatial_shapes (Tensor): H_l and W_l of each of the L levels, (L, 2), int64.
        value_level_start_index (Tensor): Where each level starts in ``value``; not used, since the
            levels follow each other.
        sampling_locations (Tensor): Shape (N, queries, heads, L, points, 2), ``(x, y)`` from 0 to
            1; outside a level is zero.
        attention_weights (Tensor): Shape (N, queries, heads, L, points).
        im2col_step (int): Images at a time in the compiled operator; not used.

    Returns:
        Tensor: Shape (N, queries, heads * channels of a head), of the dtype of ``value``.
    """
    inputs = widened(value, sampling_locations, attention_weights)
    return _by_pytorch(value_spatial_shapes, *inputs).to(value.dtype)


@as_compiled
def ms_deform_attn_backward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Gradients of :func:`ms_deform_attn_forward`.

    Args:
        value (Tensor): See the forward pass, as the arguments not listed here.
        grad_output (Tensor): Of the shape of the result.
        grad_value (Tensor): Output of the shape of ``value``.
        grad_sampling_loc (Tensor): Output of the shape of ``sampling_locations``.
        grad_attn_weight (Tensor): Output of the shape of ``attention_weights``.
    """
    inputs = [x.requires_grad_() for x in _copies(value, sampling_locations, attention_weights)]
    with torch.enable_grad():
        result = _by_pytorch(value_spatial_shapes, *inputs)
        grads = torch.autograd.grad(result, inputs, grad_output.to(result))
    for out, grad in zip((grad_value, grad_sampling_loc, grad_attn_weight), grads, strict=True):
        out.copy_(grad)


def _copies(*tensors: Tensor) -> list[Tensor]:
    return [x.detach().clone() for x in widened(*tensors)]


def _by_pytorch(shapes: Tensor, value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    # As plain numbers, or each of mmcv's uses of them would wait for the device
    return multi_scale_deformable_attn_pytorch(value, shapes.tolist(), locations, weights)
