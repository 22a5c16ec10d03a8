"""PSANet's attention maps, laid over the whole feature map.

Each pixel (h, w) has a mask of ``h_mask`` x ``w_mask`` values, with the pixel in its middle. Laid
over the map, its value (i, j) belongs to the pixel (h + i - half_h_mask, w + j - half_w_mask);
what falls outside of the map is dropped, and what no mask covers is zero.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .as_compiled import as_compiled

COLLECT = 0  # `psa_type` in which the masks' values come first in the output; else the pixels do


@as_compiled
def psamask_forward(
    input: Tensor,
    output: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Masks over the whole map (mmcv/ops/psa_mask.py).

    Args:
        input (Tensor): Shape (N, h_mask * w_mask, H, W): a mask for each pixel.
        output (Tensor): Output of shape (N, H * W, H, W). With ``psa_type`` 0 (collect),
            ``output[n, p, h, w]`` is what the mask of (h, w) has for the p-th pixel; with 1
            (distribute) it is what the mask of the p-th pixel has for (h, w).
        psa_type (int): 0 or 1.
        num_ (int): N.
        h_feature (int): H.
        w_feature (int): W.
        h_mask (int): Height of a mask.
        w_mask (int): Width of a mask.
        half_h_mask (int): Row of the pixel itself in its mask.
        half_w_mask (int): Its column.
    """
    masks = input.reshape(num_, h_mask, w_mask, h_feature, w_feature)
    laid = _moved(masks, 1, h_feature, -1, half_h_mask)  # (N, H, w_mask, H, W)
    laid = _moved(laid, 2, w_feature, -1, half_w_mask)  # (N, H, W, H, W)
    laid = laid.flatten(3).flatten(1, 2)  # (N, H * W of the map, H * W of the masks)
    laid = laid if psa_type == COLLECT else laid.transpose(1, 2)
    output.copy_(laid.reshape(output.shape))


@as_compiled
def psamask_backward(
    grad_output: Tensor,
    grad_input: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Gradient of :func:`psamask_forward`.

    Args:
        grad_output (Tensor): Shape (N, H * W, H, W).
        grad_input (Tensor): Output of shape (N, h_mask * w_mask, H, W).
        psa_type (int): As in the forward pass, as the arguments not listed here.
    """
    laid = grad_output.reshape(num_, h_feature * w_feature, h_feature * w_feature)
    laid = laid if psa_type == COLLECT else laid.transpose(1, 2)
    laid = laid.reshape(num_, h_feature, w_feature, h_feature, w_feature)
    masks = _moved(laid, 1, h_mask, 1, -half_h_mask)  # (N, h_mask, W, H, W)
    masks = _moved(masks, 2, w_mask, 1, -half_w_mask)  # (N, h_mask, w_mask, H, W)
    grad_input.copy_(masks.reshape(grad_input.shape))


def _moved(x: Tensor, dim: int, size: int, sign: int, start: int) -> Tensor:
    """``y[.., i, .., p, ..] = x[.., i + sign * p + start, .., p, ..]``, zero outside of ``x``.

    Args:
        x (Tensor): Five dimensions.
        dim (int): That of ``i``, 1 or 2; the pixel's ``p`` is two dimensions behind it.
        size (int): Of that dimension in the result.
        sign (int): 1 or -1.
        start (int): Where ``i = p = 0`` reads.
    """
    i = torch.arange(size, device=x.device)[:, None]
    p = torch.arange(x.shape[dim + 2], device=x.device)
    source = i + sign * p + start  # (size, P)
    inside = (source >= 0) & (source < x.shape[dim])
    shape = [1] * 5
    shape[dim], shape[dim + 2] = source.shape
    source, inside = source.clamp(0, x.shape[dim] - 1).view(shape), inside.view(shape)
    wanted = [*x.shape]
    wanted[dim] = size
    return x.gather(dim, source.expand(wanted)).masked_fill(~inside, 0)
