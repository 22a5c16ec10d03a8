"""The four snakes and their moves against a walk over the map, and that merging is the adjoint."""

from itertools import pairwise

import pytest
import torch

from mambaout_mm.ops.snake_scan import snake_merge, snake_moves, snake_scan

SIZES = [(1, 1), (1, 5), (6, 1), (2, 2), (3, 4), (7, 5), (4, 6)]
# The rows of a published table: 0 is the start.
MOVES = {(0, 1): 1, (0, -1): 2, (-1, 0): 3, (1, 0): 4}


def walks(height, width):
    """(row, column) of each step of the four orders."""
    rows, columns = [], []
    for h in range(height):
        rows += [(h, w if h % 2 == 0 else width - 1 - w) for w in range(width)]
    for w in range(width):
        columns += [(h if w % 2 == 0 else height - 1 - h, w) for h in range(height)]
    return [rows, rows[::-1], columns, columns[::-1]]


@pytest.mark.parametrize(('height', 'width'), SIZES)
def test_orders(height, width):
    x = torch.randn(2, height, width, 3)
    scanned = snake_scan(x)
    for k, walk in enumerate(walks(height, width)):
        expected = torch.stack([x[:, h, w] for h, w in walk], dim=1)
        assert torch.equal(scanned[:, k], expected), f'order {k}'


@pytest.mark.parametrize(('height', 'width'), SIZES)
def test_moves(height, width):
    moves = snake_moves(height, width)
    assert moves.shape == (4, height * width)
    for k, walk in enumerate(walks(height, width)):
        expected = [0]
        for (h0, w0), (h1, w1) in pairwise(walk):
            expected.append(MOVES[h1 - h0, w1 - w0])
        assert moves[k].tolist() == expected, f'order {k}'


@pytest.mark.parametrize(('height', 'width'), SIZES)
def test_scan_and_merge_are_adjoint(height, width):
    x = torch.randn(2, height, width, 3, dtype=torch.float64, requires_grad=True)
    y = torch.randn(2, 4, height * width, 3, dtype=torch.float64, requires_grad=True)
    scanned, merged = snake_scan(x), snake_merge(y, height, width)
    # <scan(x), y> = <x, merge(y)>, and each one's gradient is the other
    assert torch.allclose((scanned * y).sum(), (x * merged).sum(), rtol=1e-13)
    (grad,) = torch.autograd.grad(scanned, x, y.detach())
    assert torch.allclose(grad, merged, rtol=1e-13)
    (grad,) = torch.autograd.grad(merged, y, x.detach())
    assert torch.equal(grad, scanned)


def test_channels_last_views_are_read():
    x = torch.randn(1, 3, 4, 5).permute(0, 2, 3, 1)
    assert torch.equal(snake_scan(x), snake_scan(x.contiguous()))


def test_another_size_is_refused():
    with pytest.raises(ValueError, match=r'do not fill a map of 3 x 5; \(b, 4, 15, D\)'):
        snake_merge(torch.zeros(1, 4, 12, 2), 3, 5)
