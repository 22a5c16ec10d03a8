"""The orders against a walk over the map, position by position, and each way back.

Published orders: the authors' vectors and, for PlainMamba's moves, the rows of its table.
"""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from mambaout_mm.ops.scan_orders import (
    DIRECTIONS,
    atrous_merge,
    atrous_scan,
    cross_merge,
    cross_scan,
    local_scan,
    local_unscan,
    snake_merge,
    snake_moves,
    snake_scan,
)

GOLDEN = Path(__file__).parents[1] / 'data' / 'cross_scan_3x4.npz'
# One pixel, one row, one column; sides that windows of 2 and 7 divide, and sides that they do not
SIZES = [(1, 1), (1, 5), (6, 1), (4, 6), (5, 3), (7, 7), (9, 15)]
all_sizes = pytest.mark.parametrize(('height', 'width'), SIZES)

# (step down, step to the right) to the row of PlainMamba's published table; row 0 is the start
MOVES = {(0, 1): 1, (0, -1): 2, (-1, 0): 3, (1, 0): 4}


def local_walk(direction, height, width):
    """(row, column) of each step in a direction of LocalMamba, padding included."""
    order, _, flip = direction.partition('_')
    if order == 'v':
        walk = [(h, w) for w in range(width) for h in range(height)]
    else:
        side = 1 if order == 'h' else int(order[1:])
        walk = [
            (top + h, left + w)
            for top in range(0, height, side)
            for left in range(0, width, side)
            for h in range(side)
            for w in range(side)
        ]
    return walk[::-1] if flip else walk


def atrous_walk(row, column, height, width):
    """(row, column) of each step through the sub-map that starts there, padding included."""
    rows, columns = range(row, height + height % 2, 2), range(column, width + width % 2, 2)
    if row == 0:
        return [(h, w) for h in rows for w in columns]
    return [(h, w) for w in columns for h in rows]


def snake_walks(height, width):
    """(row, column) of each step of PlainMamba's four orders."""
    rows, columns = [], []
    for h in range(height):
        rows += [(h, w if h % 2 == 0 else width - 1 - w) for w in range(width)]
    for w in range(width):
        columns += [(h if w % 2 == 0 else height - 1 - h, w) for h in range(height)]
    return [rows, rows[::-1], columns, columns[::-1]]


def numbered_map(height, width):
    """(2, height, width, 1), no two elements alike and none 0."""
    return torch.arange(1.0, 2 * height * width + 1).view(2, height, width, 1)


def along(walk, x):
    """(b, L, D): what a walk over a (b, H, W, D) map meets, zeros outside of the map."""
    _, height, width, _ = x.shape
    zeros = torch.zeros_like(x[:, 0, 0])
    return torch.stack([x[:, h, w] if h < height and w < width else zeros for h, w in walk], dim=1)


def test_cross_scan_reproduces_the_official_orders():
    arrays = {k: torch.from_numpy(v) for k, v in np.load(GOLDEN).items() if k != 'config'}
    scanned = cross_scan(arrays['scan_in'].permute(0, 2, 3, 1))  # (b, 4, L, D)
    assert torch.equal(scanned.transpose(2, 3), arrays['scan_out'])
    merged = cross_merge(arrays['merge_in'].transpose(2, 3), 3, 4)  # (b, H, W, D)
    assert torch.equal(merged.flatten(1, 2).transpose(1, 2), arrays['merge_out'])


@pytest.mark.parametrize('direction', DIRECTIONS)
@all_sizes
def test_local_scan_in_one_direction(direction, height, width):
    x = numbered_map(height, width)
    scanned = local_scan(x, [direction])
    assert torch.equal(scanned[:, 0], along(local_walk(direction, height, width), x))
    assert torch.equal(local_unscan(scanned, [direction], height, width)[:, 0], x)


def test_shorter_local_sequences_end_in_zeros():
    scanned = local_scan(torch.ones(1, 5, 5, 1), ('h', 'w2', 'w7_flip'))
    assert scanned.shape == (1, 3, 49, 1)
    assert scanned[0, :, :, 0].sum(1).tolist() == [25, 25, 25]
    assert scanned[0, 0, 25:].abs().sum() == scanned[0, 1, 36:].abs().sum() == 0


@pytest.mark.parametrize('direction', ['v', 'v_flip'])
def test_the_published_way_back_from_columns(direction):
    """Right on square maps only: out[w * H + h] = y[h * W + w], read as H rows."""
    for height, width in ((4, 4), (3, 5)):
        x = torch.randn(1, height, width, 2)
        scanned = local_scan(x, [direction])
        y = scanned[0, 0].flip(0) if direction == 'v_flip' else scanned[0, 0]  # (L, D)
        expected = torch.empty_like(y)
        for h in range(height):
            for w in range(width):
                expected[w * height + h] = y[h * width + w]
        out = local_unscan(scanned, [direction], height, width, published=True)[0, 0]
        assert torch.equal(out.flatten(0, 1), expected)
        assert torch.equal(out, x[0]) == (height == width)


@all_sizes
def test_atrous_scan_of_each_sub_map(height, width):
    x = numbered_map(height, width)
    scanned = atrous_scan(x)
    for k, (row, column) in enumerate([(0, 0), (1, 0), (0, 1), (1, 1)]):
        walk = atrous_walk(row, column, height, width)
        assert torch.equal(scanned[:, k], along(walk, x)), f'sub-map {k}'
    assert torch.equal(atrous_merge(scanned, height, width), x)


@all_sizes
def test_snake_scan_and_its_moves(height, width):
    x = numbered_map(height, width)
    scanned, moves = snake_scan(x), snake_moves(height, width)
    assert moves.shape == (4, height * width)
    for k, walk in enumerate(snake_walks(height, width)):
        assert torch.equal(scanned[:, k], along(walk, x)), f'order {k}'
        steps = [MOVES[h1 - h0, w1 - w0] for (h0, w0), (h1, w1) in pairwise(walk)]
        assert moves[k].tolist() == [0, *steps], f'order {k}'


@pytest.mark.parametrize(
    ('scan', 'merge'),
    [
        (cross_scan, cross_merge),
        (
            lambda x: local_scan(x, DIRECTIONS),
            lambda y, height, width: local_unscan(y, DIRECTIONS, height, width).sum(1),
        ),
        (atrous_scan, atrous_merge),
        (snake_scan, snake_merge),
    ],
    ids=['cross', 'local', 'atrous', 'snake'],
)
@all_sizes
def test_merging_is_the_adjoint_of_scanning(scan, merge, height, width):
    """The gradient of each is the other."""
    x = torch.randn(2, height, width, 3, dtype=torch.float64, requires_grad=True)
    scanned = scan(x)
    y = torch.randn_like(scanned, requires_grad=True)
    merged = merge(y, height, width)
    (grad,) = torch.autograd.grad(scanned, x, y.detach())
    torch.testing.assert_close(grad, merged, rtol=1e-13, atol=1e-13)
    (grad,) = torch.autograd.grad(merged, y, x.detach())
    torch.testing.assert_close(grad, scanned, rtol=0, atol=0)


@pytest.mark.parametrize('scan', [cross_scan, snake_scan])
def test_channels_last_views_are_read(scan):
    x = torch.randn(1, 3, 4, 5).permute(0, 2, 3, 1)
    assert torch.equal(scan(x), scan(x.contiguous()))


@pytest.mark.parametrize('merge', [cross_merge, snake_merge])
def test_sequences_of_another_size_are_refused(merge):
    with pytest.raises(ValueError, match=r'do not fill a map of 3 x 5; \(b, 4, 15, D\)'):
        merge(torch.zeros(1, 4, 12, 2), 3, 5)
