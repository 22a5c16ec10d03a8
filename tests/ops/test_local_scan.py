"""The eight orders against their definition, position by position."""

import pytest
import torch

from mambaout_mm.ops.local_scan import DIRECTIONS, local_scan, local_unscan

SIZES = [(1, 1), (4, 6), (5, 3), (7, 7), (9, 15)]


def positions(direction, height, width):
    """Row-major numbers of a map in the order of a direction; -1 is padding."""
    order, _, flip = direction.partition('_')
    side = 1 if order in 'hv' else int(order[1:])
    rows, columns = -(-height // side), -(-width // side)
    found = []
    if order == 'v':
        found = [h * width + w for w in range(width) for h in range(height)]
    else:
        for window in range(rows * columns):
            for inside in range(side * side):
                h = window // columns * side + inside // side
                w = window % columns * side + inside % side
                found.append(h * width + w if h < height and w < width else -1)
    return found[::-1] if flip else found


@pytest.mark.parametrize('direction', DIRECTIONS)
@pytest.mark.parametrize(('height', 'width'), SIZES)
def test_one_direction(direction, height, width):
    x = torch.arange(1.0, 2 * height * width + 1).view(2, height, width, 1)
    scanned = local_scan(x, [direction])
    flat = torch.cat((x.flatten(1), torch.zeros(2, 1)), dim=1)  # its last is what -1 finds
    assert torch.equal(scanned[:, 0, :, 0], flat[:, positions(direction, height, width)])
    assert torch.equal(local_unscan(scanned, [direction], height, width)[:, 0], x)


@pytest.mark.parametrize(('height', 'width'), SIZES)
def test_unscan_is_the_adjoint_of_scan(height, width):
    x = torch.randn(2, height, width, 3, dtype=torch.float64, requires_grad=True)
    scanned = local_scan(x, DIRECTIONS)
    y = torch.randn_like(scanned)
    (grad,) = torch.autograd.grad(scanned, x, y)
    assert torch.allclose(grad, local_unscan(y, DIRECTIONS, height, width).sum(1), rtol=1e-13)


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


def test_shorter_sequences_end_in_zeros():
    x = torch.ones(1, 5, 5, 1)
    scanned = local_scan(x, ('h', 'w2', 'w7_flip'))
    assert scanned.shape == (1, 3, 49, 1)
    assert scanned[0, :, :, 0].sum(1).tolist() == [25, 25, 25]
    assert scanned[0, 0, 25:].abs().sum() == scanned[0, 1, 36:].abs().sum() == 0
