"""Shared by the tests of mmcv's operators: inputs, and the comparison with plain implementations.

Each test file has the plain implementations of its operators. They follow the definitions: loops
and autograd, in the dtype they are given. Unless a test says otherwise, they run in float64 for the
values to compare with.
"""

import pytest
import torch
from mmcv import _ext
from support import needs_torch

from mambaout_mm.compat import mmcv_ops

STAND_IN = isinstance(_ext.__spec__.loader, mmcv_ops._StandInLoader)
needs_stand_in = pytest.mark.skipif(not STAND_IN, reason='mmcv has its compiled operators')

DEVICES = [
    'cpu',
    pytest.param(
        'cuda',
        marks=[
            pytest.mark.cuda,
            pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device'),
        ],
    ),
]
HALF = pytest.param(torch.float16, marks=needs_torch('2.4', 'float16 on a CPU'))
DTYPES = [torch.float64, torch.float32, HALF, torch.bfloat16]
on_devices = pytest.mark.parametrize('device', DEVICES)
in_dtypes = pytest.mark.parametrize('dtype', DTYPES, ids=lambda d: str(d).split('.')[-1])

# Inside, at the border, partly outside, wholly outside, smaller than a pixel. In half steps, so
# that every dtype holds them.
ROIS = torch.tensor(
    [
        [0, 3, 2, 13, 9],
        [1, 0, 0, 12, 14],
        [1, -6, -4, 5, 30],
        [0, 40, 40, 60, 60],
        [0, 5, 5, 5.5, 5.5],
    ]
)


def rand(*shape, seed, low=-1.0, high=1.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator, dtype=torch.float64) * (high - low) + low


def leaves(tensors, dtype, device='cpu'):
    return [t.to(device, dtype).requires_grad_() for t in tensors]


def run(function, inputs, grad_output=None):
    """Returns the output and the gradients of the inputs, all in float64 on the CPU."""
    output = function(*inputs)
    if grad_output is None:
        grad_output = torch.ones_like(output)
    grads = torch.autograd.grad(output, inputs, grad_output.to(output))
    return [t.detach().double().cpu() for t in (output, *grads)]


def check(function, plain, inputs, dtype, device, grad_output, slack=0.0):
    """At most twice the error of the plain implementation in the same dtype."""
    inputs = [t.to(dtype) for t in inputs]
    grad_output = grad_output.to(dtype)
    exact = run(plain, leaves(inputs, torch.float64), grad_output)
    got = run(function, leaves(inputs, dtype, device), grad_output)
    same = run(plain, leaves(inputs, dtype), grad_output)
    for ours, theirs, reference in zip(got, same, exact, strict=True):
        allowed = 2 * (theirs - reference).abs().max() + 1e-6 + slack * reference.abs().max()
        error = (ours - reference).abs().max()
        # pytest shows the values of an assert in test files only.
        assert error <= allowed, f'off by {error}, allowed are {allowed}'


def plain_bilinear(plane, y, x, clamp):
    """Value of (C, H, W) at one point; outside it is zero, with a border of one pixel."""
    height, width = plane.shape[1:]
    if clamp:  # RoIAlign repeats the border within that pixel
        if not (-1 <= y <= height and -1 <= x <= width):
            return plane.new_zeros(len(plane))
        y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)
    elif not (-1 < y < height and -1 < x < width):
        return plane.new_zeros(len(plane))
    y0, x0 = int(y.floor()), int(x.floor())
    value = plane.new_zeros(len(plane))
    for row, weight_y in ((y0, 1 - (y - y0)), (y0 + 1, y - y0)):
        for column, weight_x in ((x0, 1 - (x - x0)), (x0 + 1, x - x0)):
            if 0 <= row < height and 0 <= column < width:
                value = value + weight_y * weight_x * plane[:, row, column]
    return value
