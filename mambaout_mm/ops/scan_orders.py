"""Orders in which the visual Mambas read a map as sequences, and the way back to a map.

Maps are (b, H, W, D), sequences (b, G, L, D) with one sequence for each of G orders. These are
taken apart by ``unbind``: the gradient of an index is as large as all sequences, and mostly zeros.

===========  =================================================================================
cross_scan   VMamba: rows, columns, and both from the end. arXiv 2401.10166, figure 3;
             ``cross_scan_fn`` of MzeroMiko/VMamba at 2ed52ea.
local_scan   LocalMamba: rows, columns and windows, of which the authors' search picks four for
             each block. arXiv 2403.09338, figure 3; ``multi_mamba.py`` of hunto/LocalMamba at
             75e5d1f.
atrous_scan  EfficientVMamba: every second row and column, so that each position is scanned once
             where VMamba scans it four times. arXiv 2403.09977; ``vmamba_efficient.py`` of
             TerryPei/EfficientVMamba at 0bc5ee2.
snake_scan   PlainMamba: rows and columns with a turn at each end, so that neighbours in a sequence
             are neighbours in the map. arXiv 2403.17695; ChenhongyiYang/PlainMamba at 0975a1d.
===========  =================================================================================
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

# The orders of `local_scan`
DIRECTIONS = ('h', 'h_flip', 'v', 'v_flip', 'w2', 'w2_flip', 'w7', 'w7_flip')

# The steps of `snake_scan`, each of which has a learnt vector in PlainMamba
START, RIGHT, LEFT, UP, DOWN = MOVES = range(5)


def cross_scan(x: Tensor) -> Tensor:
    """Read a map by rows, by columns, and both from the end.

    Args:
        x (Tensor): (b, H, W, D).

    Returns:
        Tensor: (b, 4, L, D) with L = H * W: rows, columns, rows reversed, columns reversed.
    """
    rows = x.flatten(1, 2)  # (b, L, D)
    columns = x.transpose(1, 2).flatten(1, 2)
    return torch.stack((rows, columns, rows.flip(1), columns.flip(1)), dim=1)


def cross_merge(y: Tensor, height: int, width: int) -> Tensor:
    """Put four sequences back in the order of the map and add them: the adjoint of `cross_scan`.

    Args:
        y (Tensor): (b, 4, L, D) with L = height * width.
        height, width (int): Of the map.

    Returns:
        Tensor: (b, height, width, D).

    Raises:
        ValueError: If ``y`` does not have four sequences of that length.
    """
    _check_sequences('cross_merge', y, height, width)
    rows, columns, rows_back, columns_back = y.unbind(1)  # (b, L, D) each
    rows = rows + rows_back.flip(1)
    columns = (columns + columns_back.flip(1)).unflatten(1, (width, height))
    return rows.unflatten(1, (height, width)) + columns.transpose(1, 2)


def local_scan(x: Tensor, directions: Sequence[str]) -> Tensor:
    """Read a map once in each direction.

    'h' goes row by row, 'v' column by column. 'w2' and 'w7' go from window to window of 2x2 and 7x7
    tokens, and row by row inside each window. If the windows do not divide the map, the map gets
    zeros at its bottom and right, which are part of the sequence. '_flip' starts from the end.

    Args:
        x (Tensor): (b, H, W, D).
        directions (Sequence[str]): G of ``DIRECTIONS``.

    Returns:
        Tensor: (b, G, L, D), L the length of the longest sequence; shorter ones end in zeros.
    """
    sequences = [_local_sequence(x, direction) for direction in directions]
    longest = max(sequence.shape[1] for sequence in sequences)
    for i, sequence in enumerate(sequences):
        if sequence.shape[1] < longest:  # F.pad copies even where it pads by nothing
            sequences[i] = F.pad(sequence, (0, 0, 0, longest - sequence.shape[1]))
    return torch.stack(sequences, dim=1)


def local_unscan(
    y: Tensor, directions: Sequence[str], height: int, width: int, published: bool = False
) -> Tensor:
    """Put each sequence of `local_scan` back in the order of the map, without padding.

    Args:
        y (Tensor): (b, G, L, D) in the orders of :func:`local_scan`.
        directions (Sequence[str]): G of ``DIRECTIONS``.
        height, width (int): Of the map.
        published (bool): Put 'v' and 'v_flip' back as the authors' code does, on whose results the
            published weights depend: read the sequence as ``height`` rows and transpose it, which
            is right for square maps only. Defaults to False.

    Returns:
        Tensor: (b, G, height, width, D).
    """
    return torch.stack(
        [
            _local_map(sequence, direction, height, width, published)
            for sequence, direction in zip(y.unbind(1), directions, strict=True)
        ],
        dim=1,
    )


def atrous_scan(x: Tensor) -> Tensor:
    """Read each of the four sub-maps of every second row and column as one sequence.

    Sub-maps that start in row 0 are read row by row, sub-maps that start in row 1 column by column.
    A map of odd height or width gets zeros at its bottom or right, which are part of the sequences.

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
    by_rows, by_columns = x.unbind(2)  # (b, column, h, w, D) each
    by_rows = by_rows.flatten(2, 3)  # (b, column, L, D)
    by_columns = by_columns.transpose(2, 3).flatten(2, 3)
    return torch.stack((by_rows, by_columns), dim=2).flatten(1, 2)


def atrous_merge(y: Tensor, height: int, width: int) -> Tensor:
    """Put four sub-maps together to a map, without padding: the adjoint of `atrous_scan`.

    Args:
        y (Tensor): (b, 4, L, D) with L = ceil(height / 2) * ceil(width / 2).
        height, width (int): Of the map.

    Returns:
        Tensor: (b, height, width, D).
    """
    h, w = (height + 1) // 2, (width + 1) // 2
    by_rows, by_columns = y.unflatten(1, (2, 2)).unbind(2)  # (b, column, L, D) each
    by_rows = by_rows.unflatten(2, (h, w))
    by_columns = by_columns.unflatten(2, (w, h)).transpose(2, 3)
    x = torch.stack((by_rows, by_columns), dim=2)  # (b, column, row, h, w, D)
    return x.permute(0, 3, 2, 4, 1, 5).flatten(3, 4).flatten(1, 2)[:, :height, :width]


def snake_scan(x: Tensor) -> Tensor:
    """Read a map by rows and by columns that turn around at each end.

    Args:
        x (Tensor): (b, H, W, D).

    Returns:
        Tensor: (b, 4, L, D) with L = H * W: rows from the top, the first to the right, the second
        back to the left and so on; the same from its end; columns from the left, the first
        downwards, the second upwards and so on; the same from its end.
    """
    tokens = x.flatten(1, 2)  # (b, L, D)
    places = _places(x.shape[1], x.shape[2], x.device)
    rows = tokens.index_select(1, _snake(places))
    columns = tokens.index_select(1, _snake(places.t()))
    return torch.stack((rows, rows.flip(1), columns, columns.flip(1)), dim=1)


def snake_merge(y: Tensor, height: int, width: int) -> Tensor:
    """Put four sequences back in the order of the map and add them: the adjoint of `snake_scan`.

    Args:
        y (Tensor): (b, 4, L, D) with L = height * width.
        height, width (int): Of the map.

    Returns:
        Tensor: (b, height, width, D).

    Raises:
        ValueError: If ``y`` does not have four sequences of that length.
    """
    _check_sequences('snake_merge', y, height, width)
    rows, rows_back, columns, columns_back = y.unbind(1)  # (b, L, D) each
    rows = rows + rows_back.flip(1)
    columns = columns + columns_back.flip(1)
    # To turn every second line once more is the way back.
    rows = rows.index_select(1, _snake(_places(height, width, y.device)))
    columns = columns.index_select(1, _snake(_places(width, height, y.device)))
    rows, columns = rows.unflatten(1, (height, width)), columns.unflatten(1, (width, height))
    return rows + columns.transpose(1, 2)


def snake_moves(height: int, width: int, device: torch.device | None = None) -> Tensor:
    """How each step of the four sequences of `snake_scan` is reached from the step before.

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


def _check_sequences(function: str, y: Tensor, height: int, width: int) -> None:
    if y.dim() != 4 or y.shape[1:3] != (4, height * width):
        raise ValueError(
            f'{function}: sequences of shape {tuple(y.shape)} do not fill a map of {height} x '
            f'{width}; (b, 4, {height * width}, D) is expected'
        )


def _local_sequence(x: Tensor, direction: str) -> Tensor:
    """(b, H, W, D) as (b, L, D) in one direction."""
    order, _, flip = direction.partition('_')
    if order == 'h':
        sequence = x.flatten(1, 2)
    elif order == 'v':
        sequence = x.transpose(1, 2).flatten(1, 2)
    else:
        side = int(order[1:])
        x = F.pad(x, (0, 0, 0, -x.shape[2] % side, 0, -x.shape[1] % side))
        x = x.unflatten(2, (-1, side)).unflatten(1, (-1, side))  # (b, rows, k, columns, k, D)
        sequence = x.transpose(2, 3).flatten(1, 4)
    return sequence.flip(1) if flip else sequence


def _local_map(y: Tensor, direction: str, height: int, width: int, published: bool) -> Tensor:
    """(b, L, D) in one direction as (b, height, width, D)."""
    order, _, flip = direction.partition('_')
    side = 1 if order in 'hv' else int(order[1:])
    rows, columns = -(-height // side), -(-width // side)
    y = y[:, : rows * columns * side**2]
    if flip:
        y = y.flip(1)
    if order == 'h':
        return y.unflatten(1, (height, width))
    if order == 'v' and published:
        transposed = y.unflatten(1, (height, width)).transpose(1, 2)
        return transposed.reshape(y.shape[0], height, width, -1)
    if order == 'v':
        return y.unflatten(1, (width, height)).transpose(1, 2)
    y = y.unflatten(1, (rows, columns, side, side)).transpose(2, 3)  # (b, rows, k, columns, k, D)
    return y.flatten(3, 4).flatten(1, 2)[:, :height, :width]


def _places(height: int, width: int, device: torch.device) -> Tensor:
    """The number of each token in row by row order, (height, width)."""
    return torch.arange(height * width, device=device).unflatten(0, (height, width))


def _snake(places: Tensor) -> Tensor:
    """The places (H, W) row by row, every second row from its end, (H * W,)."""
    odd = torch.arange(places.shape[0], device=places.device) % 2 == 1
    return torch.where(odd[:, None], places.flip(1), places).flatten()
