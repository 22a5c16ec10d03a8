"""Multi-scale deformable attention of the stand-in for mmcv._ext, for accelerators."""

import torch
from mmcv import _ext
from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction
from support_mmcv import check, in_dtypes, needs_stand_in, on_devices, plain_bilinear, rand

pytestmark = needs_stand_in

SHAPES = torch.tensor([[3, 4], [2, 1]])
STARTS = torch.tensor([0, 12])
QUERIES, HEADS, POINTS, CHANNELS = 2, 2, 2, 3


def plain_attention(value, locations, weights):
    rows = []
    for n in range(len(value)):
        for query in range(QUERIES):
            for head in range(HEADS):
                total = value.new_zeros(CHANNELS)
                for level, ((h, w), start) in enumerate(zip(SHAPES, STARTS, strict=True)):
                    plane = value[n, start : start + h * w, head].T.reshape(CHANNELS, h, w)
                    for point in range(POINTS):
                        x, y = locations[n, query, head, level, point]
                        pixel = plain_bilinear(plane, y * h - 0.5, x * w - 0.5, clamp=False)
                        total = total + weights[n, query, head, level, point] * pixel
                rows.append(total)
    return torch.stack(rows).view(len(value), QUERIES, HEADS * CHANNELS)


def inputs():
    value = rand(2, 14, HEADS, CHANNELS, seed=31)
    # In sixteenths, which every dtype holds, and on no border between pixels
    locations = (
        rand(2, QUERIES, HEADS, 2, POINTS, 2, seed=32, low=-3, high=18).round() / 16 + 1 / 32
    )
    return [value, locations, rand(2, QUERIES, HEADS, 2, POINTS, seed=33)]


@on_devices
@in_dtypes
def test_deformable_attention(device, dtype):
    def ours(value, locations, weights):
        shapes, starts = SHAPES.to(device), STARTS.to(device)
        return MultiScaleDeformableAttnFunction.apply(value, shapes, starts, locations, weights, 64)

    output = rand(2, QUERIES, HEADS * CHANNELS, seed=34)
    check(ours, plain_attention, inputs(), dtype, device, output)


def test_the_result_has_the_dtype_of_the_values():
    value, locations, weights = inputs()
    got = _ext.ms_deform_attn_forward(
        value.half(), SHAPES, STARTS, locations.half(), weights.half(), im2col_step=64
    )
    assert got.dtype == torch.float16
