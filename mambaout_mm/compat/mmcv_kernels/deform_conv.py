"""Deformable convolutions, without and with modulation."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .as_compiled import as_compiled, widened


@as_compiled
def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    **geometry: int,
) -> None:
    """Deformable convolution without modulation (mmcv/ops/deform_conv.py).

    Args:
        input (Tensor): Shape (N, C, H, W), floating.
        weight (Tensor): Shape (O, C / group, kH, kW).
        offset (Tensor): Shape (N, deformable_group * kH * kW * 2, H', W'), ``(y, x)`` per point.
        output (Tensor): Output of shape (N, O, H', W').
        columns (Tensor): Scratch of the compiled operator; not used, as ``ones``.
        ones (Tensor): Not used.
        **geometry (int): See :func:`_deform_conv_geometry`.
    """
    output.copy_(
        _deform_conv(*widened(input, weight, offset), None, None, _deform_conv_geometry(**geometry))
    )


@as_compiled
def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradInput: Tensor,
    gradOffset: Tensor,
    weight: Tensor,
    columns: Tensor,
    **geometry: int,
) -> None:
    """Gradients of :func:`deform_conv_forward` for its input (added) and its offset.

    Args:
        input (Tensor): See :func:`deform_conv_forward`, as the arguments not listed here.
        offset (Tensor): The forward pass's offset.
        gradOutput (Tensor): Shape (N, O, H', W').
        gradInput (Tensor): Output of the shape of ``input``.
        gradOffset (Tensor): Output of the shape of ``offset``.
        weight (Tensor): The forward pass's weight.
    """
    input, offset, gradOutput, weight = widened(input, offset, gradOutput, weight)
    grads = _deform_conv_grads(
        gradOutput, input, weight, offset, None, _deform_conv_geometry(**geometry)
    )
    gradInput += grads[0]
    gradOffset.copy_(grads[2])


@as_compiled
def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradWeight: Tensor,
    columns: Tensor,
    ones: Tensor,
    scale: float,
    **geometry: int,
) -> None:
    """Adds ``scale`` times the weight's gradient of :func:`deform_conv_forward`.

    Args:
        input (Tensor): See :func:`deform_conv_forward`, as the arguments not listed here.
        offset (Tensor): The forward pass's offset.
        gradOutput (Tensor): Shape (N, O, H', W').
        gradWeight (Tensor): Output of the shape of the weight.
        scale (float): Factor for the gradient.
    """
    input, offset, gradOutput = widened(input, offset, gradOutput)
    # The weight's gradient does not depend on the weight, and this operator is not given it.
    weight = input.new_zeros(gradWeight.shape)
    grads = _deform_conv_grads(
        gradOutput, input, weight, offset, None, _deform_conv_geometry(**geometry)
    )
    gradWeight.add_(grads[1], alpha=scale)


@as_compiled
def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    with_bias: bool,
    **geometry: int,
) -> None:
    """Deformable convolution with modulation (mmcv/ops/modulated_deform_conv.py).

    ``offset`` and ``mask`` may be of another size than the output, as mmdet's DyHead has them; see
    :func:`_as_it_lies`. The convolution without modulation refuses that, as mmcv's.

    Args:
        input (Tensor): Shape (N, C, H, W), floating.
        weight (Tensor): Shape (O, C / group, kernel_h, kernel_w).
        bias (Tensor): Shape (O,); not used unless ``with_bias``.
        ones (Tensor): Scratch of the compiled operator; not used, as ``columns``.
        offset (Tensor): Shape (N, deformable_group * kernel_h * kernel_w * 2, H', W').
        mask (Tensor): Shape (N, deformable_group * kernel_h * kernel_w, H', W').
        output (Tensor): Output of shape (N, O, H', W').
        columns (Tensor): Not used.
        with_bias (bool): Whether to add ``bias``.
        **geometry (int): See :func:`_modulated_geometry`.
    """
    offset, mask = (_as_it_lies(points, output.shape[2:]) for points in (offset, mask))
    input, weight, offset, mask, bias = widened(input, weight, offset, mask, bias)
    bias = bias if with_bias else None
    output.copy_(_deform_conv(input, weight, offset, mask, bias, _modulated_geometry(**geometry)))


@as_compiled
def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    with_bias: bool,
    **geometry: int,
) -> None:
    """Gradients of :func:`modulated_deform_conv_forward`.

    Args:
        input (Tensor): See the forward pass, as the arguments not listed here.
        weight (Tensor): The forward pass's weight.
        grad_input (Tensor): Output of the shape of ``input``, added to.
        grad_weight (Tensor): Output of the shape of ``weight``, added to.
        grad_bias (Tensor): Output of shape (O,), added to; left alone unless ``with_bias``.
        grad_offset (Tensor): Output of the shape of ``offset``.
        grad_mask (Tensor): Output of the shape of ``mask``.
        grad_output (Tensor): Shape (N, O, H', W').
    """
    offset, mask = (_as_it_lies(points, grad_output.shape[2:]) for points in (offset, mask))
    grad_output, input, weight, offset, mask = widened(grad_output, input, weight, offset, mask)
    grads = _deform_conv_grads(
        grad_output, input, weight, offset, mask, _modulated_geometry(**geometry)
    )
    grad_input += grads[0]
    grad_weight += grads[1]
    _put_as_it_lies(grads[2], grad_offset)
    _put_as_it_lies(grads[3], grad_mask)
    if with_bias:
        grad_bias += grads[4]


def _as_it_lies(points: Tensor, size: torch.Size) -> Tensor:
    """Offsets or mask (N, P, h, w) as mmcv's kernel reads them for an output of ``size``, H' x W'.

    It never asks for h and w: image by image it takes the memory as P maps of H' x W', and leaves
    the rest (``modulated_deformable_im2col`` in
    mmcv/ops/csrc/pytorch/cpu/modulated_deform_conv.cpp). Models were trained with that.

    Returns:
        Tensor: (N, P, H', W').

    Raises:
        ValueError: If an image has fewer values than the output needs. mmcv reads what lies behind.
    """
    if points.shape[2:] == size:
        return points
    flat = points.flatten(1)
    needed = points.shape[1] * math.prod(size)
    if flat.shape[1] < needed:
        raise ValueError(
            f'offsets or mask {tuple(points.shape)} are too few for an output of '
            f'{size[0]}x{size[1]}: {flat.shape[1]} values for each image where {needed} are needed'
        )
    return flat[:, :needed].unflatten(1, (points.shape[1], *size))


def _put_as_it_lies(grad: Tensor, out: Tensor) -> None:
    """The gradient of what :func:`_as_it_lies` read, into ``out``; what was not read has none."""
    if grad.shape != out.shape:
        read = grad.flatten(1)
        flat = read.new_zeros(len(out), math.prod(out.shape[1:]))
        flat[:, : read.shape[1]] = read
        grad = flat.view(out.shape)
    out.copy_(grad)


def _deform_conv_geometry(
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> tuple[int, ...]:
    """Translates mmcv's names for operators without modulation to :func:`_deform_conv`'s order.

    Kernel, stride (``d``), padding, dilation, and the groups of weights and of offsets. The
    kernel's size is also the weight's, and torchvision chooses its own ``im2col_step``.
    """
    return dH, dW, padH, padW, dilationH, dilationW, group, deformable_group


def _modulated_geometry(
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
) -> tuple[int, ...]:
    """Translates mmcv's names for operators with modulation to :func:`_deform_conv`'s order."""
    return stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group


def _deform_conv(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    geometry: tuple[int, ...],
) -> Tensor:
    """torchvision's deformable convolution.

    ``geometry`` is (stride, padding, dilation: vertical and horizontal; groups, offset groups).
    """
    use_mask = mask is not None
    mask = mask if use_mask else input.new_zeros(len(input), 1)
    bias = bias if bias is not None else input.new_zeros(len(weight))
    return torch.ops.torchvision.deform_conv2d(
        input, weight, offset, mask, bias, *geometry, use_mask
    )


def _deform_conv_grads(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    geometry: tuple[int, ...],
) -> tuple[Tensor, ...]:
    """Gradients of :func:`_deform_conv` for input, weight, offset, mask and bias.

    A point exactly one pixel before the first row or column, which is where zero offsets put
    the kernel's edge at padding 1, reads zero; torchvision gives its offset the slope on the
    image's side, mmcv gives it zero (``deformable_col2im_coord`` of
    mmcv/ops/csrc/pytorch/cpu/deform_conv.cpp), and so does this function.
    """
    use_mask = mask is not None
    grad_input, grad_weight, grad_offset, grad_mask, grad_bias = (
        torch.ops.torchvision._deform_conv2d_backward(
            grad_output,
            input,
            weight,
            offset,
            mask if use_mask else input.new_zeros(len(input), 1),
            input.new_zeros(len(weight)),
            *geometry,
            use_mask,
        )
    )
    stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, _, groups = geometry
    kernel_h, kernel_w = weight.shape[-2:]
    n, _, out_h, out_w = offset.shape
    points = offset.reshape(n, groups, kernel_h, kernel_w, 2, out_h, out_w)

    def steps(count: int) -> Tensor:
        return torch.arange(count, device=offset.device)

    rows = steps(kernel_h)[:, None] * dilation_h + steps(out_h) * stride_h - pad_h  # (kh, H')
    cols = steps(kernel_w)[:, None] * dilation_w + steps(out_w) * stride_w - pad_w  # (kw, W')
    y = rows[:, None, :, None] + points[:, :, :, :, 0]  # (N, groups, kh, kw, H', W')
    x = cols[:, None, :] + points[:, :, :, :, 1]  # (N, groups, kh, kw, H', W')
    # Beyond the last row and column both libraries give zero.
    outside = (y <= -1) | (x <= -1)
    grad_offset = grad_offset.view_as(points).masked_fill(outside[:, :, :, :, None], 0)
    return grad_input, grad_weight, grad_offset.view_as(offset), grad_mask, grad_bias
