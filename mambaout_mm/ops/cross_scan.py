"""2-D maps to 1-D sequences and back.

VMamba (arXiv 2401.10166, figure 3; ``cross_scan_fn`` of MzeroMiko/VMamba at 2ed52ea) reads a map in
four orders: row by row, column by column, and both from the end.
"""

import torch
from torch import Tensor


def cross_scan(x: Tensor) -> Tensor:
    """Four sequences of a map.

    Args:
        x (Tensor): (b, H, W, D).

    Returns:
        Tensor: (b, 4, L, D) with L = H * W: rows, columns, rows reversed, columns reversed.
    """
    rows = x.flatten(1, 2)  # (b, L, D)
    columns = x.transpose(1, 2).flatten(1, 2)
    return torch.stack((rows, columns, rows.flip(1), columns.flip(1)), dim=1)


def cross_merge(y: Tensor, height: int, width: int) -> Tensor:
    """Sum of four sequences, each put back in the order of the map: the adjoint of `cross_scan`.

    Args:
        y (Tensor): (b, 4, L, D) with L = height * width.
        height, width (int): Of the map.

    Returns:
        Tensor: (b, height, width, D).

    Raises:
        ValueError: If ``y`` is not four sequences of that length.
    """
    if y.dim() != 4 or y.shape[1:3] != (4, height * width):
        raise ValueError(
            f'cross_merge: sequences of shape {tuple(y.shape)} do not fill a map of {height} x '
            f'{width}; (b, 4, {height * width}, D) is expected'
        )
    rows = y[:, 0] + y[:, 2].flip(1)  # (b, L, D)
    columns = (y[:, 1] + y[:, 3].flip(1)).unflatten(1, (width, height))
    return rows.unflatten(1, (height, width)) + columns.transpose(1, 2)
