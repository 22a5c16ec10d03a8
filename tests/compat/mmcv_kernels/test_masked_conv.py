"""Masked convolution of the stand-in for mmcv._ext."""

import mmcv.ops as ops
import pytest
import torch
import torch.nn.functional as F
from mmcv import _ext
from support_mmcv import in_dtypes, needs_stand_in, on_devices, rand

pytestmark = needs_stand_in


@on_devices
@in_dtypes
@pytest.mark.parametrize('kernel, padding', [((3, 3), 1), ((5, 1), (2, 0)), ((1, 1), 0)])
def test_chosen_pixels_are_the_convolutions_and_the_rest_is_zero(device, dtype, kernel, padding):
    x = rand(1, 3, 5, 7, seed=11)
    conv = ops.MaskedConv2d(3, 4, kernel, padding=padding)
    mask = rand(1, 5, 7, seed=12).to(device)
    mask[0, 0, 0] = mask[0, -1, -1] = 1  # corners, whose neighbourhood is partly outside
    x, conv = x.to(device, dtype), conv.to(device, dtype)
    with torch.no_grad():
        got = conv(x, mask)
        weight, bias = conv.weight.double(), conv.bias.double()
        whole = F.conv2d(x.double(), weight, bias, padding=padding)
    wanted = whole * (mask > 0)
    tolerance = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(got.double(), wanted, rtol=tolerance, atol=tolerance)
    assert (got[:, :, mask[0] <= 0] == 0).all()


def test_no_pixel_chosen():
    x = rand(1, 3, 4, 4, seed=13).float()
    conv = ops.MaskedConv2d(3, 2, 3, padding=1)
    assert not conv(x, torch.zeros(1, 4, 4)).any()


def test_columns():
    x = torch.arange(12.0).view(1, 1, 3, 4)
    rows, cols = torch.tensor([0, 2]), torch.tensor([0, 3])
    col = torch.full((9, 2), torch.nan)
    _ext.masked_im2col_forward(x, rows, cols, col, kernel_h=3, kernel_w=3, pad_h=1, pad_w=1)
    assert col.T.tolist() == [[0, 0, 0, 0, 0, 1, 0, 4, 5], [6, 7, 0, 10, 11, 0, 0, 0, 0]]


def test_columns_reach_behind_the_map_where_there_is_no_padding():
    x = torch.arange(6.0).view(1, 1, 2, 3)
    col = torch.full((4, 1), torch.nan)
    last = torch.tensor([1]), torch.tensor([2])
    _ext.masked_im2col_forward(x, *last, col, kernel_h=2, kernel_w=2, pad_h=0, pad_w=0)
    assert col[:, 0].tolist() == [5, 0, 0, 0]


def test_pixels_that_are_not_chosen_are_left_alone():
    im = torch.full((1, 2, 2, 2), 7.0)
    col = torch.tensor([[1.0], [2.0]])
    pixel = torch.tensor([0]), torch.tensor([1])
    _ext.masked_col2im_forward(col, *pixel, im, height=2, width=2, channels=2)
    assert im[0, 0].tolist() == [[7, 1], [7, 7]] and im[0, 1].tolist() == [[7, 2], [7, 7]]
