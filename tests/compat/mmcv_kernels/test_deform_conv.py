"""Deformable convolutions of the stand-in for mmcv._ext."""

from pathlib import Path

import mmcv.ops as ops
import mmdet
import pytest
import torch
from mmcv import _ext
from mmdet.structures import DetDataSample
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData
from support_mmcv import HALF, check, leaves, needs_stand_in, on_devices, plain_bilinear, rand, run

pytestmark = needs_stand_in


def plain_deform_conv(input, offset, mask, weight, bias, stride, padding, dilation, groups, dg):
    n, channels, height, width = input.shape
    out_channels, _, kh, kw = weight.shape
    out_h, out_w = offset.shape[2:]
    offset = offset.reshape(n, dg, kh, kw, 2, out_h, out_w)
    mask = mask.reshape(n, dg, kh, kw, out_h, out_w)
    images = []
    for k in range(n):
        pixels = []
        for i in range(out_h):
            for j in range(out_w):
                columns = []
                for g in range(dg):
                    plane = input[k].reshape(dg, channels // dg, height, width)[g]
                    taps = []
                    for a in range(kh):
                        for b in range(kw):
                            dy, dx = offset[k, g, a, b, :, i, j]
                            y = i * stride[0] - padding[0] + a * dilation[0] + dy
                            x = j * stride[1] - padding[1] + b * dilation[1] + dx
                            value = plain_bilinear(plane, y, x, clamp=False)
                            taps.append(value * mask[k, g, a, b, i, j])
                    columns.append(torch.stack(taps, 1))
                pixels.append(torch.cat(columns))  # (C, kh * kw)
        column = torch.stack(pixels, -1)  # (C, kh * kw, H' * W')
        column = column.reshape(groups, channels // groups * kh * kw, out_h * out_w)
        kernel = weight.reshape(groups, out_channels // groups, -1)
        images.append((kernel @ column).reshape(out_channels, out_h, out_w))
    return torch.stack(images) + bias[:, None, None]


# stride, padding, dilation, groups, deformable groups
GEOMETRIES = [
    ((1, 1), (1, 1), (1, 1), 1, 1),
    ((2, 1), (1, 2), (1, 2), 2, 1),
    ((1, 2), (0, 1), (2, 1), 1, 2),
    ((1, 1), (2, 0), (1, 1), 4, 2),
]


def deform_inputs(geometry, kernel=(3, 2), size=(6, 5)):
    stride, padding, dilation, groups, dg = geometry
    out = [
        (size[k] + 2 * padding[k] - dilation[k] * (kernel[k] - 1) - 1) // stride[k] + 1
        for k in range(2)
    ]
    taps = dg * kernel[0] * kernel[1]
    input = rand(2, 4, *size, seed=51)
    # Far enough to leave the image; multiples of 1/16 are exact in every dtype.
    offset = (rand(2, taps * 2, *out, seed=52, low=-3, high=3) * 16).round() / 16
    mask = rand(2, taps, *out, seed=53, low=0)
    weight = rand(4, 4 // groups, *kernel, seed=54)
    return input, offset, mask, weight, rand(4, seed=55), rand(2, 4, *out, seed=56)


@on_devices
@pytest.mark.parametrize('geometry', GEOMETRIES)
@pytest.mark.parametrize('with_bias', [True, False])
def test_modulated_deform_conv(device, geometry, with_bias):
    *inputs, bias, grad = deform_inputs(geometry)
    inputs += [bias] * with_bias
    none = torch.zeros(4, dtype=torch.float64)
    expected = run(
        lambda i, o, m, w, b=none: plain_deform_conv(i, o, m, w, b, *geometry),
        leaves(inputs, torch.float64),
        grad,
    )
    for dtype, atol in ((torch.float64, 1e-12), (torch.float32, 1e-4)):
        got = run(
            lambda i, o, m, w, b=None: ops.modulated_deform_conv2d(i, o, m, w, b, *geometry),
            leaves(inputs, dtype, device),
            grad,
        )
        for ours, reference in zip(got, expected, strict=True):
            assert torch.allclose(ours, reference, atol=atol, rtol=0)


def as_the_kernel_indexes(points, height, width):
    """What mmcv's kernel finds for each point: map p of an image begins at p * height * width."""
    maps, rows, columns = (torch.arange(n) for n in (points.shape[1], height, width))
    index = (maps[:, None, None] * height + rows[:, None]) * width + columns
    return points.reshape(len(points), -1)[:, index]


@on_devices
@pytest.mark.parametrize('geometry', GEOMETRIES)
@pytest.mark.parametrize('size', [(12, 10), (6, 30), (7, 9)])
def test_offsets_of_another_size_are_read_as_they_lie(device, geometry, size):
    """mmdet's DyHead convolves a level with the offsets of the next, which is larger."""
    input, offset, mask, weight, bias, grad = deform_inputs(geometry)
    height, width = grad.shape[2:]
    size = [max(pair) for pair in zip(size, (height, width), strict=True)]
    points = (rand(2, 3 * mask.shape[1], *size, seed=57, low=-3, high=3) * 16).round() / 16
    cut = offset.shape[1]  # one convolution gives both, so that an image's are not the next one's

    def plain(i, p, w, b):
        offset, mask = (as_the_kernel_indexes(x, height, width) for x in (p[:, :cut], p[:, cut:]))
        return plain_deform_conv(i, offset, mask, w, b, *geometry)

    inputs = [input, points, weight, bias]
    expected = run(plain, leaves(inputs, torch.float64), grad)
    for dtype, atol in ((torch.float64, 1e-11), (torch.float32, 1e-3)):
        got = run(
            lambda i, p, *wb: ops.modulated_deform_conv2d(
                i, p[:, :cut], p[:, cut:], *wb, *geometry
            ),
            leaves(inputs, dtype, device),
            grad,
        )
        for ours, reference in zip(got, expected, strict=True):
            assert torch.allclose(ours, reference, atol=atol, rtol=0)
    assert not got[2].flatten(2)[:, cut - 1, -1].any()  # never read


def test_too_few_offsets_are_named():
    input, offset, mask, weight, *_ = deform_inputs(GEOMETRIES[0])
    words = r'\(2, 12, 2, 3\) are too few for an output of 6x6: 72 values .* 432 are needed'
    with pytest.raises(ValueError, match=words):
        ops.modulated_deform_conv2d(input, offset[:, :, :2, :3], mask, weight, None, *GEOMETRIES[0])


def test_without_modulation_another_size_is_refused():
    """As by mmcv's own check."""
    input, offset, _, weight, *_ = deform_inputs(GEOMETRIES[0])
    with pytest.raises(RuntimeError, match='offset'):
        ops.deform_conv2d(input, offset.repeat(1, 1, 2, 2), weight, *GEOMETRIES[0])


def test_mmdets_stock_dyhead_trains_and_predicts():
    register_all_modules(init_default_scope=False)
    folder = Path(mmdet.__file__).parent / '.mim' / 'configs' / 'dyhead'
    cfg = Config.fromfile(folder / 'atss_r50_fpn_dyhead_1x_coco.py').model
    cfg.backbone.init_cfg = None
    cfg.neck[1].num_blocks = 1  # of six that are alike
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(cfg)
    size = dict.fromkeys(('img_shape', 'pad_shape', 'batch_input_shape', 'ori_shape'), (64, 96))
    sample = DetDataSample(metainfo=dict(size, scale_factor=(1, 1)))
    boxes = torch.tensor([[8.0, 8, 40, 50]])
    sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([3]))
    images = torch.randn(1, 3, 64, 96)
    loss, _ = model.parse_losses(model.loss(images, [sample]))
    loss.backward()
    block = model.neck[1].dyhead_blocks[0]
    for part in ('offset.weight', 'high.conv.weight', 'low.conv.weight'):
        grad = block.get_parameter(f'spatial_conv_{part}').grad
        assert grad.isfinite().all() and grad.any()
    with torch.no_grad():
        (found,) = model.eval().predict(images, [sample])
    assert found.pred_instances.bboxes.shape[1] == 4


@on_devices
@pytest.mark.parametrize('geometry', GEOMETRIES)
def test_deform_conv(device, geometry):
    input, offset, mask, weight, bias, grad = deform_inputs(geometry)
    inputs = [input, offset, weight]
    expected = run(
        lambda i, o, w: plain_deform_conv(
            i, o, torch.ones_like(mask), w, torch.zeros_like(bias), *geometry
        ),
        leaves(inputs, torch.float64),
        grad,
    )
    for dtype, atol in ((torch.float64, 1e-12), (torch.float32, 1e-4)):
        for im2col_step in (1, 32):
            got = run(
                lambda *t, step=im2col_step: ops.deform_conv2d(*t, *geometry, False, step),
                leaves(inputs, dtype, device),
                grad,
            )
            for ours, reference in zip(got, expected, strict=True):
                assert torch.allclose(ours, reference, atol=atol, rtol=0)


@on_devices
@pytest.mark.parametrize('dtype', [torch.float32, HALF, torch.bfloat16])
def test_deform_convs_in_low_precision(device, dtype):
    geometry = GEOMETRIES[0]
    *inputs, grad = deform_inputs(geometry, size=(4, 4))
    # bfloat16 has 8 bits for the offsets, half a pixel and its multiples leave some for i + dy.
    inputs[1] = (inputs[1] * 2).round() / 2
    check(
        lambda *t: ops.modulated_deform_conv2d(*t, *geometry),
        lambda *t: plain_deform_conv(*t, *geometry),
        inputs,
        dtype,
        device,
        grad,
    )
    ones, zeros = torch.ones_like(inputs[2]), torch.zeros(4)
    check(
        lambda *t: ops.deform_conv2d(*t, *geometry),
        lambda i, o, w: plain_deform_conv(i, o, ones.to(i), w, zeros.to(i), *geometry),
        [inputs[0], inputs[1], inputs[3]],
        dtype,
        device,
        grad,
    )


@on_devices
def test_zero_offsets_at_the_padding_have_no_slope(device):
    # torchvision's own operator gives these points the slope on the image's side.
    inputs = [rand(1, 2, 4, 4, seed=61), torch.zeros(1, 18, 4, 4), rand(3, 2, 3, 3, seed=62)]
    grad = rand(1, 3, 4, 4, seed=63)
    expected = run(
        lambda i, o, w: plain_deform_conv(
            i, o, i.new_ones(1, 9, 4, 4), w, i.new_zeros(3), *GEOMETRIES[0]
        ),
        leaves(inputs, torch.float64),
        grad,
    )
    got = run(lambda *t: ops.deform_conv2d(*t, 1, 1), leaves(inputs, torch.float64, device), grad)
    for ours, reference in zip(got, expected, strict=True):
        assert torch.allclose(ours, reference, atol=1e-12)
    assert not got[2].reshape(3, 3, 2, 4, 4)[0, :, :, 0].any()  # first tap row, first row

    from torchvision.ops import deform_conv2d

    theirs = run(
        lambda i, o, w: deform_conv2d(i, o, w, padding=1), leaves(inputs, torch.float64), grad
    )
    assert theirs[2].reshape(3, 3, 2, 4, 4)[0, :, :, 0].any()


def test_gradients_are_added_to_and_scaled():
    input, offset, _, weight, _, grad = deform_inputs(GEOMETRIES[0])
    geometry = dict(
        kW=2, kH=3, dW=1, dH=1, padW=1, padH=1, dilationW=1, dilationH=1, group=1,
        deformable_group=1, im2col_step=1,
    )  # fmt: skip
    empty = torch.empty(0)
    once, more = torch.zeros_like(weight), torch.ones_like(weight)
    for out, scale in ((once, 1), (more, 0.5)):
        _ext.deform_conv_backward_parameters(
            input, offset, grad, out, empty, empty, scale=scale, **geometry
        )
    assert torch.allclose(more, 1 + 0.5 * once)


@on_devices
def test_deform_conv_modules_and_memory_format(device):
    torch.manual_seed(0)
    for module in (
        ops.DeformConv2dPack(4, 6, 3, padding=1),
        ops.ModulatedDeformConv2dPack(4, 6, 3),
    ):
        module = module.to(device)
        torch.nn.init.normal_(module.conv_offset.weight, std=0.3)
        x = torch.rand(2, 4, 8, 8, device=device)
        # TF32 in conv_offset would move the points.
        with torch.backends.cudnn.flags(allow_tf32=False):
            output = module(x)
            other = module(x.to(memory_format=torch.channels_last))
        assert torch.allclose(output, other, atol=1e-5)
        output.sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


@on_devices
def test_deform_conv_pack_under_autocast(device):
    # conv_offset makes bfloat16 offsets; mmcv's wrapper casts the rest to them.
    torch.manual_seed(0)
    module = ops.ModulatedDeformConv2dPack(4, 4, 3, padding=1).to(device)
    torch.nn.init.normal_(module.conv_offset.weight, std=0.05)
    x = rand(2, 4, 8, 8, seed=83).float().to(device).requires_grad_()
    expected = module(x)
    reference = torch.autograd.grad(expected.sum(), [x, *module.parameters()])
    with torch.autocast(device, torch.bfloat16):
        output = module(x)
    assert output.dtype == torch.bfloat16
    assert torch.allclose(output.float(), expected, atol=0.02)
    grads = torch.autograd.grad(output.float().sum(), [x, *module.parameters()])
    for grad, other in zip(grads, reference, strict=True):
        assert grad.dtype == torch.float32
        assert (grad - other).norm() <= 0.1 * other.norm()
