"""Detectors as one graph: pixels in; boxes, scores, labels and masks out.

A graph is exported before it is known what is found. So shapes depend on the image's size alone up
to the last step: where mmdet filters by score, candidates here are filled up to their greatest
number with such as have no score.
"""

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models import MaskRCNN, RetinaHead, SingleStageDetector, TwoStageDetector
from mmdet.models.dense_heads import RPNHead
from mmdet.models.dense_heads.anchor_head import AnchorHead
from mmdet.models.roi_heads import StandardRoIHead
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder
from mmdet.models.task_modules.coders.delta_xywh_bbox_coder import delta2bbox
from mmdet.models.task_modules.prior_generators import AnchorGenerator
from torch import Tensor, nn
from torchvision.ops import nms, roi_align

from mambaout_mm.errors import UserError

from .preparation import Preparation

TAKEN = (
    'tools/export.py takes RetinaNet, Faster R-CNN and Mask R-CNN with anchors, NMS and RoIAlign '
    'as mmdet has them'
)
NO_SCORE = -1.0
# Of the pairs of a proposal and a class, those that take part in NMS. mmdet takes all above
# score_thr; fewer than 100 of them remain after it, so that only a crowd of more matters.
PAIRS = 5000


class ExportedDetector(nn.Module):
    """A detector from pixels to its detections.

    Args:
        model (nn.Module): mmdet's, in eval mode.

    Raises:
        UserError: If it has parts that are not taken.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.preparation = Preparation(model.data_preprocessor)
        self.model = model
        self.two_stages = isinstance(model, TwoStageDetector)
        if self.two_stages:
            _check_two_stages(model)
        elif isinstance(model, SingleStageDetector):
            _check_single_stage(model.bbox_head)
        else:
            raise UserError(f'{TAKEN}; this is {type(model).__name__}')
        self.with_masks = self.two_stages and model.roi_head.with_mask
        self.outputs = ('boxes', 'scores', 'labels', *(('masks',) if self.with_masks else ()))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Pixels (1, 3, H, W), uint8, to boxes (n, 4), scores (n,), labels (n,) and masks.

        Boxes are in pixels of the image. Masks, if the detector has them, are probabilities inside
        of the boxes, (n, 28, 28), as its mask head gives them.
        """
        size = image.shape[2:]
        maps = self.model.extract_feat(self.preparation(image))
        if not self.two_stages:
            return _detect(self.model.bbox_head, maps, size)
        proposals, there = _propose(self.model.rpn_head, maps, size)
        boxes, scores, labels = _classify(self.model.roi_head, maps, proposals, there, size)
        if not self.with_masks:
            return boxes, scores, labels
        return boxes, scores, labels, _masks(self.model.roi_head, maps, boxes, labels)


def _candidates(
    head: AnchorHead, maps: Sequence[Tensor], size: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The best pairs of an anchor and a class of each level, ``test_cfg.nms_pre`` of each.

    Returns:
        tuple[Tensor, ...]: Boxes (n, 4), scores, labels, and the number of the level. Boxes that
        are too small have no score.
    """
    count = head.test_cfg.nms_pre
    boxes, scores, labels, levels = [], [], [], []
    logits_of, deltas_of = head(maps)
    generator = head.prior_generator
    for level, (logits, deltas) in enumerate(zip(logits_of, deltas_of, strict=True)):
        height, width = logits.shape[2:]
        base = generator.base_anchors[level].to(logits)
        anchors = _anchors(base, generator.strides[level], height, width)
        deltas = deltas[0].permute(1, 2, 0).reshape(-1, 4)
        logits = logits[0].permute(1, 2, 0).reshape(-1, head.cls_out_channels)
        classes = head.cls_out_channels
        of_pairs = logits.sigmoid().flatten()
        # A small level is filled up to as many as are taken.
        of_pairs = torch.cat((of_pairs, of_pairs.new_full((count,), NO_SCORE)))
        best, pairs = of_pairs.topk(count)
        there = (best > NO_SCORE).long()
        rows = (pairs // classes) * there
        decoded = _decode(head.bbox_coder, anchors[rows], deltas[rows], size)
        sides = decoded[:, 2:] - decoded[:, :2]
        large = (sides > head.test_cfg.get('min_bbox_size', -1)).all(1)
        boxes.append(decoded)
        scores.append(torch.where(large, best, NO_SCORE))
        labels.append(pairs % classes)
        levels.append(torch.full_like(pairs, level))
    return torch.cat(boxes), torch.cat(scores), torch.cat(labels), torch.cat(levels)


def _anchors(base: Tensor, stride: tuple[int, int], height: int, width: int) -> Tensor:
    """Anchors of a level in the order of its map, (height * width * anchors, 4)."""
    x = torch.arange(width, device=base.device)[None].to(base.dtype) * stride[0]
    y = torch.arange(height, device=base.device)[:, None].to(base.dtype) * stride[1]
    x, y = x + torch.zeros_like(y), y + torch.zeros_like(x)  # (height, width)
    shifts = torch.stack((x, y, x, y), dim=-1)
    return (shifts[:, :, None] + base).reshape(-1, 4)


def _decode(
    coder: DeltaXYWHBBoxCoder, boxes: Tensor, deltas: Tensor, size: Sequence[int]
) -> Tensor:
    """Boxes moved by deltas, inside of the image; without mmdet's other way for ONNX."""
    return delta2bbox(
        boxes,
        deltas,
        coder.means,
        coder.stds,
        size,
        clip_border=coder.clip_border,
        add_ctr_clamp=coder.add_ctr_clamp,
        ctr_clamp=coder.ctr_clamp,
    )


def _best(
    boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float, count: int
) -> tuple[Tensor, Tensor]:
    """Non-maximum suppression within groups, as mmcv's ``batched_nms``.

    Returns:
        tuple[Tensor, Tensor]: Numbers of ``count`` boxes by descending score, and whether each is
        one, which those at the end need not be.
    """
    apart = boxes + (groups.to(boxes.dtype) * (boxes.max() + 1))[:, None]
    kept = nms(apart, scores, threshold)
    taken = torch.arange(count, device=boxes.device)
    numbers = torch.cat((kept, kept.new_zeros(count)))[taken]
    there = torch.cat((torch.ones_like(kept), kept.new_zeros(count)))[taken]
    return numbers, there.bool() & (scores[numbers] > NO_SCORE)


def _detect(
    head: AnchorHead, maps: Sequence[Tensor], size: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Detections of a single-stage detector."""
    cfg = head.test_cfg
    boxes, scores, labels, _ = _candidates(head, maps, size)
    scores = torch.where(scores > cfg.score_thr, scores, NO_SCORE)
    numbers, there = _best(boxes, scores, labels, cfg.nms.iou_threshold, cfg.max_per_img)
    numbers = numbers[there]
    return boxes[numbers], scores[numbers], labels[numbers]


def _propose(head: RPNHead, maps: Sequence[Tensor], size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Proposals (n, 4), and whether each is one."""
    cfg = head.test_cfg
    boxes, scores, _, levels = _candidates(head, maps, size)
    numbers, there = _best(boxes, scores, levels, cfg.nms.iou_threshold, cfg.max_per_img)
    return boxes[numbers] * there[:, None], there


def _classify(
    head: StandardRoIHead,
    maps: Sequence[Tensor],
    proposals: Tensor,
    there: Tensor,
    size: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor]:
    """Detections out of proposals."""
    cfg = head.test_cfg
    features = _features(head.bbox_roi_extractor, maps, proposals)
    logits, deltas = head.bbox_head(features)
    of_classes = logits.softmax(-1)[:, :-1] * there[:, None]  # (proposals, classes)
    count, classes = of_classes.shape
    scores, pairs = of_classes.flatten().topk(min(PAIRS, count * classes))
    rows, labels = pairs // classes, pairs % classes
    deltas = deltas.reshape(count, -1, 4)
    of_pairs = deltas[rows, torch.zeros_like(labels) if deltas.shape[1] == 1 else labels]
    boxes = _decode(head.bbox_head.bbox_coder, proposals[rows], of_pairs, size)
    scores = torch.where(scores > cfg.score_thr, scores, NO_SCORE)
    numbers, found = _best(boxes, scores, labels, cfg.nms.iou_threshold, cfg.max_per_img)
    numbers = numbers[found]
    return boxes[numbers], scores[numbers], labels[numbers]


def _masks(head: StandardRoIHead, maps: Sequence[Tensor], boxes: Tensor, labels: Tensor) -> Tensor:
    """Probabilities inside of the boxes, (n, h, w)."""
    logits = head.mask_head(_features(head.mask_roi_extractor, maps, boxes))
    if head.mask_head.class_agnostic:
        return logits[:, 0].sigmoid()
    return logits[torch.arange(len(labels), device=labels.device), labels].sigmoid()


def _features(extractor: SingleRoIExtractor, maps: Sequence[Tensor], boxes: Tensor) -> Tensor:
    """Features of boxes from the level of their size, (n, C, h, w).

    Every level is asked for all boxes, but those of other levels have no size there: they take no
    time and give 0.
    """
    rois = torch.cat((torch.zeros_like(boxes[:, :1]), boxes), dim=1)
    maps = maps[: extractor.num_inputs]
    level_of = extractor.map_roi_levels(rois, len(maps))
    features: Any = 0
    for level, (x, layer) in enumerate(zip(maps, extractor.roi_layers, strict=True)):
        here = rois * (level_of == level)[:, None]
        features = features + roi_align(
            x, here, layer.output_size, layer.spatial_scale, layer.sampling_ratio, layer.aligned
        )
    return features


def _check_single_stage(head: nn.Module) -> None:
    _check_head('bbox_head', head, RetinaHead)
    _check_nms('test_cfg', head.test_cfg)


def _check_two_stages(model: TwoStageDetector) -> None:
    roi_head = model.roi_head
    _check_head('rpn_head', model.rpn_head, RPNHead)
    _check_nms('test_cfg.rpn', model.rpn_head.test_cfg)
    if type(roi_head) is not StandardRoIHead or roi_head.with_shared_head:
        raise UserError(f'{TAKEN}; its roi_head is {type(roi_head).__name__}')
    _check_nms('test_cfg.rcnn', roi_head.test_cfg)
    parts = [roi_head.bbox_roi_extractor]
    parts += [roi_head.mask_roi_extractor] if isinstance(model, MaskRCNN) else []
    for extractor in parts:
        if type(extractor) is not SingleRoIExtractor:
            raise UserError(f'{TAKEN}; its RoI extractor is {type(extractor).__name__}')


def _check_head(name: str, head: nn.Module, cls: type) -> None:
    parts = (type(head), type(head.prior_generator), type(head.bbox_coder))
    if parts != (cls, AnchorGenerator, DeltaXYWHBBoxCoder) or not head.use_sigmoid_cls:
        named = ', '.join(part.__name__ for part in parts)
        raise UserError(f'{TAKEN}; its {name} is made of {named}')


def _check_nms(where: str, cfg: dict[str, Any]) -> None:
    if cfg.nms.get('type', 'nms') != 'nms':
        raise UserError(f'{TAKEN}; its {where} has {cfg.nms.type!r}')
