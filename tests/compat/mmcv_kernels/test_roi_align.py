"""RoIAlign of the stand-in for mmcv._ext."""

import math

import mmcv.ops as ops
import pytest
import torch
from support_mmcv import ROIS, check, in_dtypes, needs_stand_in, on_devices, plain_bilinear, rand

pytestmark = needs_stand_in


def plain_roi_align(input, rois, size, scale, ratio, aligned):
    outputs = []
    for roi in rois.to(input.dtype):
        shift = 0.5 if aligned else 0.0
        x1, y1, x2, y2 = roi[1:] * scale - shift
        width, height = x2 - x1, y2 - y1
        if not aligned:
            width, height = width.clamp(min=1), height.clamp(min=1)
        bin_h, bin_w = height / size[0], width / size[1]
        ny = ratio if ratio > 0 else math.ceil(bin_h)
        nx = ratio if ratio > 0 else math.ceil(bin_w)
        bins = []
        for i in range(size[0]):
            for j in range(size[1]):
                total = input.new_zeros(input.shape[1])
                for a in range(ny):
                    for b in range(nx):
                        y = y1 + i * bin_h + (a + 0.5) * bin_h / ny
                        x = x1 + j * bin_w + (b + 0.5) * bin_w / nx
                        total = total + plain_bilinear(input[int(roi[0])], y, x, clamp=True)
                bins.append(total / max(ny * nx, 1))
        outputs.append(torch.stack(bins, 1).reshape(-1, *size))
    return torch.stack(outputs)


@on_devices
@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('ratio', [0, 2])
@in_dtypes
def test_roi_align(device, aligned, ratio, dtype):
    args = ((2, 3), 0.5, ratio)
    check(
        lambda x: ops.roi_align(x, ROIS.to(x), *args, 'avg', aligned),
        lambda x: plain_roi_align(x, ROIS, *args, aligned),
        [rand(2, 2, 7, 6, seed=41)],
        dtype,
        device,
        rand(len(ROIS), 2, 2, 3, seed=43),
    )


@on_devices
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
def test_roi_align_memory_format_and_rois_in_another_dtype(device, dtype):
    input = rand(2, 3, 8, 8, seed=45).to(device, dtype)
    rois, grad = ROIS.to(device), rand(len(ROIS), 3, 2, 2, seed=46).to(device, dtype)
    results = []
    for x in (input, input.contiguous(memory_format=torch.channels_last), input.mT.clone().mT):
        x = x.detach().requires_grad_()
        output = ops.roi_align(x, rois, 2)
        assert output.dtype == dtype
        results.append((output, *torch.autograd.grad(output, x, grad)))
    for other in results[1:]:
        assert torch.equal(results[0][0], other[0])
        assert torch.allclose(results[0][1], other[1])
    # A gradient that is not contiguous, as a head's slicing makes it.
    wide = torch.stack((grad, grad), -1)[..., 0]
    x = input.detach().requires_grad_()
    assert torch.allclose(torch.autograd.grad(ops.roi_align(x, rois, 2), x, wide)[0], results[0][1])


@on_devices
def test_roi_align_without_boxes(device):
    x = torch.rand(1, 2, 5, 5, device=device, requires_grad=True)
    output = ops.roi_align(x, x.new_zeros(0, 5), (3, 4))
    assert output.shape == (0, 2, 3, 4)
    assert not torch.autograd.grad(output.sum(), x)[0].any()


def test_roi_align_with_maximum_pooling_is_refused():
    with pytest.raises(NotImplementedError, match='max'):
        ops.roi_align(torch.rand(1, 2, 5, 5), ROIS[:1], 2, 1.0, 0, 'max')
