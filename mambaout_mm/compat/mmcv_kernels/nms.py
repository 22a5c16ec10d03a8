"""Non-maximum suppression and Soft-NMS."""

from __future__ import annotations

import torch
from torch import Tensor

from .as_compiled import as_compiled, widened


@as_compiled
def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Non-maximum suppression (mmcv/ops/nms.py).

    Args:
        boxes (Tensor): Boxes ``(x1, y1, x2, y2)`` of shape (N, 4), floating.
        scores (Tensor): Scores of shape (N,), floating.
        iou_threshold (float): A box is dropped if its IoU with a kept one is larger than this.
        offset (int): Added to a box's width and height, 0 or 1.

    Returns:
        Tensor: Indices of the kept boxes by falling score, int64, shape (K,). Equal scores keep
        the order of the input on the CPU.
    """
    boxes, scores = widened(boxes, scores)
    # Moving the far corner widens areas and intersections alike.
    boxes = torch.cat((boxes[:, :2], boxes[:, 2:] + offset), dim=1)  # (N, 4)
    # mmcv compares in the dtype of the boxes, torchvision's CPU operator in double, where an IoU
    # of 3/5 in float32 is larger than 0.6.
    threshold = torch.tensor(iou_threshold, dtype=boxes.dtype, device='cpu').item()
    return torch.ops.torchvision.nms(boxes, scores, threshold)


@as_compiled
def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Soft-NMS (mmcv/ops/nms.py; ``softnms_cpu`` of mmcv/ops/csrc/pytorch/cpu/nms.cpp).

    Takes the box of the highest score, lowers the scores of the others by their IoU with it,
    drops those that fall below ``min_score``, and goes on with the rest. The first box stays
    whatever its score. Dropping moves the last boxes into the gaps, as mmcv does, so equal scores
    come out in mmcv's order.

    Args:
        boxes (Tensor): Boxes ``(x1, y1, x2, y2)`` of shape (N, 4), floating.
        scores (Tensor): Scores of shape (N,), floating.
        dets (Tensor): Output of shape (N, 5): the first K rows receive the kept boxes and their
            lowered scores, in the order they were taken; the other rows are left alone.
        iou_threshold (float): Least IoU at which methods 0 and 1 lower a score.
        sigma (float): Width of method 2.
        min_score (float): Boxes whose score falls below it are dropped.
        method (int): Factor for a score at IoU ``u``: 0 (naive) 0, 1 (linear) ``1 - u``, both from
            the threshold on; 2 (gaussian) ``exp(-u * u / sigma)``.
        offset (int): Added to a box's width and height, 0 or 1.

    Returns:
        Tensor: Indices of the kept boxes, int64, shape (K,).

    Note:
        Two boxes without area have no IoU (0 / 0). Their scores are left as they are; the compiled
        operator does that too for methods 0 and 1, but gives NaN scores for method 2.
    """
    boxes, scores = (t.clone() for t in widened(boxes, scores))
    sides = boxes[:, 2:] - boxes[:, :2] + offset  # (N, 2)
    areas = sides[:, 0] * sides[:, 1]  # (N,)
    inds = torch.arange(len(boxes), device=boxes.device)

    taken = 0
    while taken < len(inds):
        best = taken + int(scores[taken:].argmax())
        for state in (boxes, scores, areas, inds):
            state[[taken, best]] = state[[best, taken]]

        box, area = boxes[taken], areas[taken]
        taken += 1
        rest = boxes[taken:]  # (R, 4)
        sides = torch.minimum(box[2:], rest[:, 2:]) - torch.maximum(box[:2], rest[:, :2]) + offset
        sides = sides.clamp(min=0)  # (R, 2)
        intersection = sides[:, 0] * sides[:, 1]  # (R,)
        iou = intersection / (area + areas[taken:] - intersection)
        if method == 2:
            factor = torch.exp(-(iou * iou) / sigma).nan_to_num(nan=1.0)
        else:
            lowered = 1 - iou if method == 1 else torch.zeros_like(iou)
            factor = torch.where(iou >= iou_threshold, lowered, 1)
        scores[taken:] *= factor

        dropped = scores < min_score  # (N,)
        dropped[:taken] = False
        if dropped.any():
            order = _close_gaps(dropped)
            boxes, scores, areas, inds = (t[order] for t in (boxes, scores, areas, inds))

    dets[: len(inds)] = torch.cat((boxes, scores[:, None]), dim=1).to(dets.dtype)
    return inds


def _close_gaps(dropped: Tensor) -> Tensor:
    """Order of the rows that stay, each gap filled with the last row that still stands behind it.

    Args:
        dropped (Tensor): Rows to leave out, bool, shape (N,).

    Returns:
        Tensor: Indices of the rows that stay, int64, shape (K,).
    """
    stays = (~dropped).nonzero()[:, 0]  # (K,)
    order = torch.arange(len(stays), device=dropped.device)
    gaps = dropped[: len(stays)]
    order[gaps] = stays[stays >= len(stays)].flip(0)
    return order
