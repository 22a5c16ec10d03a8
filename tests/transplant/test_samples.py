"""Made-up pictures have the annotations that a config's training asks for."""

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mambaout_mm.transplant.samples import batch, fewest_classes
from mambaout_mm.transplant.text import config_path

SIZE = (64, 96)


def made_up(name):
    cfg = Config.fromfile(config_path(name))
    init_default_scope(cfg.default_scope)
    return cfg, batch(cfg, SIZE)


def test_boxes_alone():
    _, data = made_up('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py')
    assert [x.shape for x in data['inputs']] == [(3, 64, 96)] * 2
    assert data['inputs'][0].dtype == torch.uint8
    assert not torch.equal(*data['inputs'])
    sample = data['data_samples'][0]
    boxes = sample.gt_instances.bboxes.tensor
    assert (boxes[:, 2:] > boxes[:, :2]).all() and (boxes >= 0).all()
    assert (boxes <= torch.tensor([96, 64, 96, 64])).all()
    assert set(sample.gt_instances.labels.tolist()) == {0, 1}
    assert 'masks' not in sample.gt_instances and 'gt_sem_seg' not in sample
    assert len(sample.ignored_instances) == 0


def test_masks_lie_in_their_boxes():
    _, data = made_up('mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py')
    instances = data['data_samples'][0].gt_instances
    for mask, box in zip(instances.masks.masks, instances.bboxes.tensor.round().int(), strict=True):
        x1, y1, x2, y2 = box.tolist()
        assert mask.sum() == mask[y1:y2, x1:x2].sum() == (x2 - x1) * (y2 - y1) > 0


def test_panoptic_maps_have_things_and_stuff():
    _, data = made_up('mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic.py')
    sample = data['data_samples'][0]
    assert sample.gt_sem_seg.sem_seg.shape == (1, *SIZE)
    assert set(sample.gt_sem_seg.sem_seg.unique().tolist()) == {0, 1, 80, 81}
    assert len(sample.gt_instances.masks) == 3


def test_stuff_maps_of_instance_segmentation():
    _, data = made_up('mmdet::htc/htc_r50_fpn_1x_coco.py')
    assert set(data['data_samples'][0].gt_sem_seg.sem_seg.unique().tolist()) == {0, 1}


def test_proposals():
    _, data = made_up('mmdet::fast_rcnn/fast-rcnn_r50_fpn_1x_coco.py')
    assert len(data['data_samples'][0].proposals.bboxes) == 3


def test_branches_of_semi_supervised_training():
    name = 'soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py'
    _, data = made_up(f'mmdet::soft_teacher/{name}')
    assert set(data['inputs']) == {'sup', 'unsup_teacher', 'unsup_student'}
    assert all(len(samples) == 2 for samples in data['data_samples'].values())


def test_label_maps():
    cfg, data = made_up('mmseg::fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py')
    assert fewest_classes(cfg.model) == 19
    labels = data['data_samples'][0].gt_sem_seg.data
    assert labels.shape == (1, *SIZE)
    assert set(labels.unique().tolist()) == {0, 1, 2, 255}


@pytest.mark.parametrize(
    ('model', 'fewest'),
    [
        (dict(rpn=dict(num_classes=1), head=dict(num_classes=80)), 1),
        (dict(head=[dict(num_classes=20), dict(num_things_classes=8)]), 8),
        (dict(head=dict(num_classes=None)), 1),
        ({}, 1),
    ],
)
def test_the_fewest_classes_of_any_head(model, fewest):
    assert fewest_classes(model) == fewest
