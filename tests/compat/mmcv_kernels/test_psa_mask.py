"""PSANet's masks of the stand-in for mmcv._ext."""

import mmcv.ops as ops
import pytest
import torch
from support_mmcv import check, in_dtypes, needs_stand_in, on_devices, rand

pytestmark = needs_stand_in

KINDS = pytest.mark.parametrize('kind', ['collect', 'distribute'])


def plain_psa_mask(masks, kind, size):
    """As psamask.cpp of mmcv states it: the mask's middle lies on its pixel."""
    n, _, h, w = masks.shape
    h_mask, w_mask = size
    masks = masks.view(n, h_mask, w_mask, h, w)
    output = masks.new_zeros(n, h, w, h, w)  # the other pixel, the pixel of the mask
    for y in range(h):
        for x in range(w):
            for i in range(h_mask):
                for j in range(w_mask):
                    row, col = y + i - (h_mask - 1) // 2, x + j - (w_mask - 1) // 2
                    if 0 <= row < h and 0 <= col < w:
                        output[:, row, col, y, x] = masks[:, i, j, y, x]
    if kind == 'distribute':
        output = output.permute(0, 3, 4, 1, 2)
    return output.reshape(n, h * w, h, w)


@on_devices
@in_dtypes
@KINDS
@pytest.mark.parametrize(
    'mask, size',
    [((5, 7), (3, 4)), ((3, 3), (4, 5)), ((4, 4), (5, 3)), ((9, 1), (2, 4))],
    ids=['covers the map', 'smaller', 'even', 'one column'],
)
def test_psa_mask(device, dtype, kind, mask, size):
    check(
        ops.PSAMask(kind, mask),
        lambda x: plain_psa_mask(x, kind, mask),
        [rand(2, mask[0] * mask[1], *size, seed=21)],
        dtype,
        device,
        rand(2, size[0] * size[1], *size, seed=22),
    )


@KINDS
def test_gradients_of_psa_mask(kind):
    x = rand(1, 15, 2, 3, seed=23).requires_grad_()
    assert torch.autograd.gradcheck(ops.PSAMask(kind, (3, 5)), (x,))


@KINDS
def test_values_are_moved_unchanged(kind):
    x = rand(1, 49, 4, 4, seed=24).float()  # a mask of 7x7 covers all of 4x4 from each pixel
    output = ops.PSAMask(kind, (7, 7))(x)
    assert output.shape == (1, 16, 4, 4)
    assert set(output.flatten().tolist()) <= set(x.flatten().tolist())
    assert output.unique().numel() == output.numel()  # each value once
