"""NMS and Soft-NMS of the stand-in for mmcv._ext."""

import inspect
import math

import mmcv.ops as ops
import numpy as np
import pytest
import torch
from mmcv import _ext
from support_mmcv import in_dtypes, needs_stand_in, on_devices, rand

pytestmark = needs_stand_in


def plain_iou(a, b, offset):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]) + offset)
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]) + offset)
    areas = [(c[2] - c[0] + offset) * (c[3] - c[1] + offset) for c in (a, b)]
    union = sum(areas) - width * height
    return width * height / union if union else math.nan


def plain_nms(boxes, scores, threshold, offset):
    boxes, scores = boxes.tolist(), scores.tolist()
    kept = []
    for i in sorted(range(len(boxes)), key=lambda k: -scores[k]):
        if not any(plain_iou(boxes[i], boxes[k], offset) > threshold for k in kept):
            kept.append(i)
    return kept


def random_boxes(count, seed):
    corners = rand(count, 2, seed=seed, low=-5, high=20)
    return torch.cat((corners, corners + rand(count, 2, seed=seed + 1, low=1, high=15)), dim=1)


@on_devices
@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('count', [0, 1, 60])
@in_dtypes
def test_nms(device, offset, count, dtype):
    # Boxes on a grid of quarters are exact in every dtype, and so is the order of the scores.
    boxes = ((random_boxes(count, 3) * 4).round() / 4).to(device, dtype)
    scores = (torch.randperm(count, generator=torch.Generator().manual_seed(5)) / 128.0).to(boxes)
    dets, keep = ops.nms(boxes, scores, 0.37, offset=offset)
    assert keep.tolist() == plain_nms(boxes.double(), scores.double(), 0.37, offset)
    assert keep.dtype == torch.int64 and keep.device == boxes.device
    assert dets.dtype == dtype and torch.equal(dets, torch.cat((boxes, scores[:, None]), 1)[keep])


@on_devices
def test_nms_offset_decides(device):
    # IoU 4/12 without the offset, 9/23 with it.
    boxes = torch.tensor([[0.0, 0, 4, 2], [2, 0, 6, 2]], device=device)
    scores = torch.tensor([0.9, 0.8], device=device)
    assert ops.nms(boxes, scores, 0.36, offset=0)[1].tolist() == [0, 1]
    assert ops.nms(boxes, scores, 0.36, offset=1)[1].tolist() == [0]


@on_devices
@in_dtypes
def test_nms_keeps_an_iou_equal_to_the_threshold(device, dtype):
    # IoU 3/5: float32(3/5) is larger than the double 0.6.
    boxes = torch.tensor([[0.0, 0, 4, 1], [1, 0, 5, 1]], device=device, dtype=dtype)
    scores = torch.tensor([0.9, 0.8], device=device, dtype=dtype)
    assert ops.nms(boxes, scores, 0.6)[1].tolist() == [0, 1]


def test_nms_ties_and_score_filter():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [20, 20, 30, 30], [5, 5, 5, 5]])
    scores = torch.tensor([0.5, 0.5, 0.5, 0.5])
    assert ops.nms(boxes, scores, 0.5)[1].tolist() == [0, 2, 3]
    dets, keep = ops.nms(boxes, torch.tensor([0.1, 0.5, 0.7, 0.2]), 0.5, 0, 0.15, 2)
    assert keep.tolist() == [2, 1] and dets.shape == (2, 5)


def test_nms_of_boxes_and_scores_of_different_dtypes():
    boxes = random_boxes(30, 8).float()
    scores = (torch.randperm(30, generator=torch.Generator().manual_seed(5)) / 32.0).bfloat16()
    keep = _ext.nms(boxes, scores, iou_threshold=0.3, offset=0)
    assert keep.tolist() == plain_nms(boxes.double(), scores.double(), 0.3, 0)


@on_devices
def test_batched_nms_separates_the_classes(device):
    boxes = random_boxes(40, 11).float().to(device)
    scores = (torch.randperm(40, generator=torch.Generator().manual_seed(2)) / 40).to(device)
    labels = (torch.arange(40) % 3).to(device)
    for split_thr in (10000, 1):
        cfg = dict(type='nms', iou_threshold=0.3, split_thr=split_thr)
        dets, keep = ops.batched_nms(boxes, scores, labels, cfg)
        expected = []
        for label in range(3):
            index = (labels.cpu() == label).nonzero()[:, 0]
            kept = plain_nms(boxes.cpu().double()[index], scores.cpu().double()[index], 0.3, 0)
            expected += index[kept].tolist()
        expected.sort(key=lambda k: -float(scores[k]))
        assert keep.tolist() == expected
        assert torch.equal(dets[:, 4], scores[keep])


def plain_soft_nms(boxes, scores, threshold, sigma, min_score, method, offset):
    pool = [[box, score, k] for k, (box, score) in enumerate(zip(boxes, scores, strict=True))]
    kept = []
    while pool:
        best = max(range(len(pool)), key=lambda k: pool[k][1])
        pool[0], pool[best] = pool[best], pool[0]
        top = pool.pop(0)
        kept.append(top)
        k = 0
        while k < len(pool):
            iou = plain_iou(top[0], pool[k][0], offset)
            if method == 'gaussian':
                pool[k][1] *= 1 if math.isnan(iou) else math.exp(-iou * iou / sigma)
            elif iou >= threshold:
                pool[k][1] *= 0 if method == 'naive' else 1 - iou
            if pool[k][1] < min_score:
                pool[k] = pool[-1]
                pool.pop()
            else:
                k += 1
    return kept


@on_devices
@pytest.mark.parametrize('method', ['naive', 'linear', 'gaussian'])
@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('count', [0, 1, 50])
def test_soft_nms(device, method, offset, count):
    boxes, scores = random_boxes(count, 21).float(), rand(count, seed=23, low=0).float()
    expected = plain_soft_nms(
        boxes.double().tolist(), scores.double().tolist(), 0.3, 0.5, 0.2, method, offset
    )
    before = boxes.clone(), scores.clone()
    dets, keep = ops.soft_nms(
        boxes.to(device), scores.to(device), 0.3, 0.5, 0.2, method, offset=offset
    )
    assert keep.tolist() == [k for _, _, k in expected]
    rows = torch.tensor([[*box, score] for box, score, _ in expected]).reshape(-1, 5)
    assert torch.allclose(dets.cpu(), rows, atol=1e-6)
    assert torch.equal(boxes, before[0]) and torch.equal(scores, before[1])
    assert count < 50 or method == 'gaussian' or 1 < len(keep) < count


@pytest.mark.parametrize('method', ['naive', 'linear'])
def test_soft_nms_takes_ties_in_the_order_of_mmcv(method):
    boxes = (random_boxes(40, 31) / 4).round() * 4 + torch.tensor([0.0, 0, 1, 1])
    scores = (rand(40, seed=33, low=0) * 4).round() / 4
    expected = plain_soft_nms(boxes.tolist(), scores.tolist(), 0.3, 0.5, 0.2, method, 0)
    _, keep = ops.soft_nms(boxes.float(), scores.float(), 0.3, 0.5, 0.2, method)
    assert keep.tolist() == [k for _, _, k in expected]
    assert keep.tolist() != sorted(keep.tolist(), key=lambda k: (-float(scores[k]), k))


def test_soft_nms_lowers_scores_from_the_threshold_on():
    # IoU 7/10: float32(7/10) is less than the double 0.7.
    boxes = torch.tensor([[0.0, 0, 8.5, 1], [1.5, 0, 10, 1]])
    dets, _ = ops.soft_nms(boxes, torch.tensor([0.9, 0.8]), 0.7)
    assert torch.allclose(dets[:, 4], torch.tensor([0.9, 0.8 * 0.3]))


def test_soft_nms_half_precision_and_boxes_without_area():
    boxes = torch.tensor([[0.0, 0, 8, 8], [0, 0, 8, 4], [9, 9, 9, 9], [9, 9, 9, 9]])
    scores = torch.tensor([1.0, 0.75, 0.5, 0.25])
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        dets, keep = ops.soft_nms(boxes.to(dtype), scores.to(dtype), method='gaussian')
        assert dets.dtype == dtype and keep.tolist() == [0, 2, 1, 3]
        expected = torch.tensor([1, 0.5, 0.75 * math.exp(-0.5), 0.25], dtype=dtype)
        assert torch.allclose(dets[:, 4], expected, rtol=1e-3, atol=0)


@pytest.mark.parametrize('function', [ops.nms, ops.soft_nms])
def test_examples_in_the_documentation_of_mmcv(function):
    lines = [line.strip() for line in inspect.getdoc(function).splitlines()]
    code = '\n'.join(line[4:] for line in lines if line.startswith('>>>'))
    assert 'assert len(inds)' in code
    exec(code, {'np': np, 'nms': ops.nms, 'soft_nms': ops.soft_nms})
