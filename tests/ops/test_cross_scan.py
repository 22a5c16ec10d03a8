"""The four orders, and that merging is the adjoint of scanning."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mambaout_mm.ops.cross_scan import cross_merge, cross_scan

GOLDEN = Path(__file__).parents[1] / 'data' / 'cross_scan_3x4.npz'


def test_reproduces_the_official_orders():
    arrays = {k: torch.from_numpy(v) for k, v in np.load(GOLDEN).items() if k != 'config'}
    scanned = cross_scan(arrays['scan_in'].permute(0, 2, 3, 1))  # (b, 4, L, D)
    assert torch.equal(scanned.transpose(2, 3), arrays['scan_out'])
    merged = cross_merge(arrays['merge_in'].transpose(2, 3), 3, 4)  # (b, H, W, D)
    assert torch.equal(merged.flatten(1, 2).transpose(1, 2), arrays['merge_out'])


@pytest.mark.parametrize(('height', 'width'), [(1, 1), (1, 5), (6, 1), (3, 4), (7, 5), (8, 8)])
def test_scan_and_merge_are_adjoint(height, width):
    torch.manual_seed(0)
    x = torch.randn(2, height, width, 3, dtype=torch.float64, requires_grad=True)
    y = torch.randn(2, 4, height * width, 3, dtype=torch.float64, requires_grad=True)
    scanned, merged = cross_scan(x), cross_merge(y, height, width)
    # <scan(x), y> = <x, merge(y)>, and each one's gradient is the other
    assert torch.allclose((scanned * y).sum(), (x * merged).sum(), rtol=1e-13)
    (grad,) = torch.autograd.grad(scanned, x, y.detach())
    assert torch.allclose(grad, merged, rtol=1e-13)
    (grad,) = torch.autograd.grad(merged, y, x.detach())
    assert torch.equal(grad, scanned)


def test_channels_last_views_are_read():
    x = torch.randn(1, 3, 4, 5).permute(0, 2, 3, 1)
    assert torch.equal(cross_scan(x), cross_scan(x.contiguous()))


def test_another_size_is_refused():
    with pytest.raises(ValueError, match=r'do not fill a map of 3 x 5; \(b, 4, 15, D\)'):
        cross_merge(torch.zeros(1, 4, 12, 2), 3, 5)
