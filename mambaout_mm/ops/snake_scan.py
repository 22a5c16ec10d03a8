"""Four snake orders in which PlainMamba reads a map, and the way back.

PlainMamba (arXiv 2403.17695; ChenhongyiYang/PlainMamba at 0975a1d) turns around at the end of each
row or column, so that neighbours in a sequence are neighbours in the map. Which way a step went is
one of five moves, and its scan has a learnt vector for each.
"""

import torch
from torch import Tensor

START, RIGHT, LEFT, UP, DOWN = MOVES = range(5)


def snake_scan(x: Tensor) -> Tensor:
    """Four sequences of a map.

    Args:
        x (Tensor): (b, H, W, D).

    Returns:
        Tensor: (b, 4, L, D) with L = H * W: rows from the top, the first to the right, the second
        back to the left and so on; the same from its end; columns from the left, the first
        downwards, the second upwards and so on; the same from its end.
    """
    rows = _turn_odd_rows(x).flatten(1, 2)  # (b, L, D)
    columns = _turn_odd_rows(x.transpose(1, 2)).flatten(1, 2)
    return torch.stack((rows, rows.flip(1), columns, columns.flip(1)), dim=1)


def snake_merge(y: Tensor, height: int, width: int) -> Tensor:
    """Sum of four sequences, each put back in the order of the map: the adjoint of `snake_scan`.

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
            f'snake_merge: sequences of shape {tuple(y.shape)} do not fill a map of {height} x '
            f'{width}; (b, 4, {height * width}, D) is expected'
        )
    rows = (y[:, 0] + y[:, 1].flip(1)).unflatten(1, (height, width))
    columns = (y[:, 2] + y[:, 3].flip(1)).unflatten(1, (width, height))
    return _turn_odd_rows(rows) + _turn_odd_rows(columns).transpose(1, 2)


def snake_moves(height: int, width: int, device: torch.device | None = None) -> Tensor:
    """How each step of the four sequences was reached from the one before.

    Args:
        height, width (int): Of the map.
        device (torch.device, optional): Of the result. Defaults to None: torch's default.

    Returns:
        Tensor: (4, L) integers with L = height * width: ``START``, ``RIGHT``, ``LEFT``, ``UP`` or
        ``DOWN``.
    """

    def lines(count: int, length: int, even: int, odd: int, change: int) -> Tensor:
        moves = torch.full((count, length), even, device=device)
        moves[1::2] = odd
        moves[:, 0] = change
        return moves

    orders = (
        lines(height, width, RIGHT, LEFT, DOWN),
        lines(height, width, LEFT, RIGHT, UP).flip(0),
        lines(width, height, DOWN, UP, RIGHT),
        lines(width, height, UP, DOWN, LEFT).flip(0),
    )
    moves = torch.stack([order.flatten() for order in orders])
    moves[:, 0] = START
    return moves


def _turn_odd_rows(x: Tensor) -> Tensor:
    """Reverse every second row of (b, H, W, D); its own inverse."""
    odd = torch.arange(x.shape[1], device=x.device) % 2 == 1
    return torch.where(odd[:, None, None], x.flip(2), x)
