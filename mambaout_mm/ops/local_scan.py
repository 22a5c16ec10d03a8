"""Eight orders in which LocalMamba reads a map, and the way back.

LocalMamba (arXiv 2403.09338, figure 3; ``multi_mamba.py`` of hunto/LocalMamba at 75e5d1f) searches
for each block which four of them it uses.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

DIRECTIONS = ('h', 'h_flip', 'v', 'v_flip', 'w2', 'w2_flip', 'w7', 'w7_flip')


def local_scan(x: Tensor, directions: Sequence[str]) -> Tensor:
    """One sequence of a map for each direction.

    'h' goes row by row, 'v' column by column, 'w2' and 'w7' through windows of 2x2 and 7x7 tokens,
    row by row inside of each and from window to window. A map that windows do not divide gets
    zeros at its bottom and right, which are part of the sequence. '_flip' starts from the end.

    Args:
        x (Tensor): (b, H, W, D).
        directions (Sequence[str]): G of ``DIRECTIONS``.

    Returns:
        Tensor: (b, G, L, D), L that of the longest; shorter ones end in zeros.
    """
    sequences = [_scan(x, direction) for direction in directions]
    longest = max(sequence.shape[1] for sequence in sequences)
    for i, sequence in enumerate(sequences):
        if sequence.shape[1] < longest:  # F.pad copies, by nothing too
            sequences[i] = F.pad(sequence, (0, 0, 0, longest - sequence.shape[1]))
    return torch.stack(sequences, dim=1)


def local_unscan(
    y: Tensor, directions: Sequence[str], height: int, width: int, published: bool = False
) -> Tensor:
    """Each scanned sequence put back in the order of the map, padding dropped.

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
            _unscan(y[:, g], direction, height, width, published)
            for g, direction in enumerate(directions)
        ],
        dim=1,
    )


def _scan(x: Tensor, direction: str) -> Tensor:
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


def _unscan(y: Tensor, direction: str, height: int, width: int, published: bool) -> Tensor:
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
