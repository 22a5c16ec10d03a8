"""Convolution at chosen pixels only: columns of their neighbourhoods, and results back to them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .as_compiled import as_compiled


@as_compiled
def masked_im2col_forward(
    im: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    col: Tensor,
    kernel_h: int,
    kernel_w: int,
    pad_h: int,
    pad_w: int,
) -> None:
    """Neighbourhoods of chosen output pixels (mmcv/ops/masked_conv.py), at stride 1.

    Args:
        im (Tensor): Shape (1, C, H, W), floating; zero outside.
        mask_h_idx (Tensor): Rows of the M output pixels, int64.
        mask_w_idx (Tensor): Their columns.
        col (Tensor): Output of shape (C * kernel_h * kernel_w, M).
        kernel_h (int): Height of the kernel.
        kernel_w (int): Width of the kernel.
        pad_h (int): Rows of padding.
        pad_w (int): Columns of padding.
    """
    # A kernel's width behind the last row and column, where the compiled operator reads zero too
    padded = F.pad(im[0], (pad_w, kernel_w, pad_h, kernel_h))
    rows = mask_h_idx + torch.arange(kernel_h, device=im.device)[:, None]  # (kernel_h, M)
    cols = mask_w_idx + torch.arange(kernel_w, device=im.device)[:, None]  # (kernel_w, M)
    col.copy_(padded[:, rows[:, None], cols[None]].reshape(col.shape))


@as_compiled
def masked_col2im_forward(
    col: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    im: Tensor,
    height: int,
    width: int,
    channels: int,
) -> None:
    """Values of chosen pixels into a map, whose other pixels are left alone.

    Args:
        col (Tensor): Shape (channels, M).
        mask_h_idx (Tensor): Rows of the M pixels, int64.
        mask_w_idx (Tensor): Their columns.
        im (Tensor): Output of shape (1, channels, height, width).
        height (int): Of ``im``; not used, as ``width`` and ``channels``.
        width (int): Not used.
        channels (int): Not used.
    """
    im[0][:, mask_h_idx, mask_w_idx] = col.to(im)
