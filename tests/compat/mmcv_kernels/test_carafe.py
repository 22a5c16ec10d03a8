"""CARAFE of the stand-in for mmcv._ext."""

import mmcv.ops as ops
import pytest
import torch
from mmcv import _ext
from support_mmcv import check, in_dtypes, needs_stand_in, on_devices, rand

pytestmark = needs_stand_in


def plain_carafe(features, masks, kernel, groups, scale):
    n, c, h, w = features.shape
    output = features.new_zeros(n, c, h * scale, w * scale)
    for y in range(h * scale):
        for x in range(w * scale):
            for i in range(kernel):
                for j in range(kernel):
                    row, col = y // scale + i - kernel // 2, x // scale + j - kernel // 2
                    if not (0 <= row < h and 0 <= col < w):
                        continue
                    tap = i * kernel + j
                    weight = masks[:, tap :: kernel * kernel, y, x]  # (N, groups)
                    weight = weight.repeat_interleave(c // groups, 1)
                    point = torch.zeros_like(output)
                    point[:, :, y, x] = 1
                    output = output + point * (weight * features[:, :, row, col])[..., None, None]
    return output


@on_devices
@in_dtypes
@pytest.mark.parametrize(
    'kernel, groups, scale, size', [(3, 2, 2, (3, 2)), (5, 1, 2, (2, 3)), (1, 4, 3, (1, 2))]
)
def test_carafe(device, dtype, kernel, groups, scale, size):
    h, w = size
    features = rand(2, 4, h, w, seed=1)
    masks = rand(2, groups * kernel**2, h * scale, w * scale, seed=2)
    check(
        lambda f, m: ops.carafe(f, m, kernel, groups, scale),
        lambda f, m: plain_carafe(f, m, kernel, groups, scale),
        [features, masks],
        dtype,
        device,
        rand(2, 4, h * scale, w * scale, seed=3),
    )


def test_gradients_of_carafe():
    features, masks = rand(1, 4, 3, 2, seed=4), rand(1, 18, 6, 4, seed=5)
    inputs = (features.requires_grad_(), masks.requires_grad_())
    assert torch.autograd.gradcheck(ops.CARAFE(3, 2, 2), inputs)


def test_maps_in_channels_last_memory():
    features, masks = rand(2, 4, 3, 2, seed=6), rand(2, 9, 6, 4, seed=7)
    laid = [x.to(memory_format=torch.channels_last).requires_grad_() for x in (features, masks)]
    output = ops.carafe(*laid, 3, 1, 2)
    torch.testing.assert_close(output, ops.carafe(features, masks, 3, 1, 2))
    grads = torch.autograd.grad(output.square().sum(), laid)
    plain = [x.requires_grad_() for x in (features, masks)]
    wanted = torch.autograd.grad(plain_carafe(*plain, 3, 1, 2).square().sum(), plain)
    torch.testing.assert_close(grads, wanted)


def test_the_naive_form_is_the_same_and_adds_to_gradients():
    features, masks = rand(2, 4, 3, 2, seed=8), rand(2, 18, 6, 4, seed=9)
    output = ops.carafe_naive(features, masks, 3, 2, 2)
    torch.testing.assert_close(output, ops.carafe(features, masks, 3, 2, 2))
    grads = [torch.ones_like(features), torch.ones_like(masks)]
    # mmcv's wrapper asserts a GPU for its backward pass
    _ext.carafe_naive_backward(
        output, features, masks, *grads, kernel_size=3, group_size=2, scale_factor=2
    )
    plain = [features.requires_grad_(), masks.requires_grad_()]
    wanted = torch.autograd.grad(plain_carafe(*plain, 3, 2, 2), plain, output)
    torch.testing.assert_close(grads, [g + 1 for g in wanted])


@on_devices
def test_the_upsampler_that_configs_name(device):
    up = ops.CARAFEPack(channels=8, scale_factor=2, up_kernel=3, compressed_channels=4).to(device)
    x = rand(1, 8, 4, 5, seed=10).float().to(device)
    output = up(x)
    assert output.shape == (1, 8, 8, 10)
    output.sum().backward()
    assert all(p.grad is not None for p in up.parameters())
    # Weights that sum to one keep a constant where the whole neighbourhood is inside
    inner = up(torch.full_like(x, 3.0))[:, :, 2:-2, 2:-2]
    torch.testing.assert_close(inner, torch.full_like(inner, 3.0))
