"""Four sub-maps of every second row and column, and the way back.

EfficientVMamba (arXiv 2403.09977; ``vmamba_efficient.py`` of TerryPei/EfficientVMamba at 0bc5ee2)
scans each quarter of a map's positions once, where VMamba scans all of them four times.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def atrous_scan(x: Tensor) -> Tensor:
    """The four sub-maps of a map, each as one sequence.

    Those that start in row 0 are read row by row, those that start in row 1 column by column. A map
    of odd height or width gets zeros at its bottom or right, which are part of the sequences.

    Args:
        x (Tensor): (b, H, W, D).

    Returns:
        Tensor: (b, 4, L, D) with L = ceil(H / 2) * ceil(W / 2); the sub-maps start at (row, column)
        (0, 0), (1, 0), (0, 1) and (1, 1).
    """
    h, w = (x.shape[1] + 1) // 2, (x.shape[2] + 1) // 2
    x = F.pad(x, (0, 0, 0, 2 * w - x.shape[2], 0, 2 * h - x.shape[1]))
    x = x.unflatten(2, (w, 2)).unflatten(1, (h, 2))  # (b, h, row, w, column, D)
    x = x.permute(0, 4, 2, 1, 3, 5)  # (b, column, row, h, w, D)
    by_rows = x[:, :, 0].flatten(2, 3)  # (b, column, L, D)
    by_columns = x[:, :, 1].transpose(2, 3).flatten(2, 3)
    return torch.stack((by_rows, by_columns), dim=2).flatten(1, 2)


def atrous_merge(y: Tensor, height: int, width: int) -> Tensor:
    """The map of four scanned sub-maps, padding dropped: the adjoint of :func:`atrous_scan`.

    Args:
        y (Tensor): (b, 4, L, D) with L = ceil(height / 2) * ceil(width / 2).
        height, width (int): Of the map.

    Returns:
        Tensor: (b, height, width, D).
    """
    h, w = (height + 1) // 2, (width + 1) // 2
    y = y.unflatten(1, (2, 2))  # (b, column, row, L, D)
    by_rows = y[:, :, 0].unflatten(2, (h, w))
    by_columns = y[:, :, 1].unflatten(2, (w, h)).transpose(2, 3)
    x = torch.stack((by_rows, by_columns), dim=2)  # (b, column, row, h, w, D)
    return x.permute(0, 3, 2, 4, 1, 5).flatten(3, 4).flatten(1, 2)[:, :height, :width]
