"""The four sub-maps against their definition, position by position."""

import pytest
import torch

from mambaout_mm.ops.atrous_scan import atrous_merge, atrous_scan

SIZES = [(1, 1), (1, 5), (6, 1), (4, 6), (5, 3), (7, 4), (8, 8)]


def positions(k, height, width):
    """Row-major numbers of a map in the order of sub-map k; -1 is padding."""
    row, column = k % 2, k // 2
    rows, columns = range(row, height + height % 2, 2), range(column, width + width % 2, 2)
    if row == 0:
        order = [(h, w) for h in rows for w in columns]
    else:
        order = [(h, w) for w in columns for h in rows]
    return [h * width + w if h < height and w < width else -1 for h, w in order]


@pytest.mark.parametrize('k', range(4))
@pytest.mark.parametrize(('height', 'width'), SIZES)
def test_one_sub_map(k, height, width):
    x = torch.arange(1.0, 2 * height * width + 1).view(2, height, width, 1)
    flat = torch.cat((x.flatten(1), torch.zeros(2, 1)), dim=1)  # its last is what -1 finds
    assert torch.equal(atrous_scan(x)[:, k, :, 0], flat[:, positions(k, height, width)])


@pytest.mark.parametrize(('height', 'width'), SIZES)
def test_scan_and_merge_are_inverse_and_adjoint(height, width):
    x = torch.randn(2, height, width, 3, requires_grad=True)
    scanned = atrous_scan(x)
    assert torch.equal(atrous_merge(scanned, height, width), x)
    y = torch.randn_like(scanned, requires_grad=True)
    merged = atrous_merge(y, height, width)
    # Each position is read once, so that both gradients are exact
    (grad,) = torch.autograd.grad(scanned, x, y.detach())
    assert torch.equal(grad, merged)
    (grad,) = torch.autograd.grad(merged, y, x.detach())
    assert torch.equal(grad, scanned)
