"""What follows from another backbone in stock configs of mmdet and mmseg."""

import pytest
from mmengine.config import Config
from support import ROOT

from mambaout_mm.comparison.catalogue import entries_of
from mambaout_mm.errors import UserError
from mambaout_mm.transplant.replace import transplant
from mambaout_mm.transplant.text import config_path

(FEMTO,) = entries_of(['MambaOut-Femto'])


def stock(name):
    return Config.fromfile(config_path(name))


def exchanged(name, network=FEMTO):
    return transplant(stock(name), network).cfg


def test_fpn_loses_the_level_that_it_does_not_use():
    cfg = exchanged('mmdet::retinanet/retinanet_r50-caffe_fpn_1x_coco.py')
    assert cfg.model.backbone.to_dict() == dict(
        type='mambaout_mm.MambaOut',
        arch='femto',
        out_indices=(1, 2, 3),
        init_cfg=dict(type='Pretrained', checkpoint='mambaout://femto'),
    )
    assert cfg.model.neck.in_channels == [96, 192, 288]
    assert cfg.model.neck.start_level == 0 and cfg.model.neck.num_outs == 5
    assert cfg.model.bbox_head.in_channels == 256
    # Caffe's weights took BGR of another scale
    assert cfg.model.data_preprocessor.bgr_to_rgb
    assert cfg.model.data_preprocessor.mean == [123.675, 116.28, 103.53]
    assert cfg.optim_wrapper.optimizer.type == 'AdamW' and 'momentum' not in cfg.optim_wrapper


def test_a_neck_that_cannot_do_without_the_level():
    cfg = exchanged('mmdet::nas_fcos/nas-fcos_r50-caffe_fpn_fcoshead-gn-head_4xb4-1x_coco.py')
    assert cfg.model.backbone.out_indices == (0, 1, 2, 3)
    assert cfg.model.neck.start_level == 1 and cfg.model.neck.in_channels == [48, 96, 192, 288]
    assert cfg.find_unused_parameters


def test_all_four_maps_where_all_are_used():
    cfg = exchanged('mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py')
    assert cfg.model.backbone.out_indices == (0, 1, 2, 3)
    assert cfg.model.neck.in_channels == [48, 96, 192, 288]


def test_one_map_and_a_recipe_with_adamw_stay():
    cfg = exchanged('mmdet::detr/detr_r50_8xb2-150e_coco.py')
    assert cfg.model.backbone.out_indices == (3,) and cfg.model.neck.in_channels == [288]
    before = stock('mmdet::detr/detr_r50_8xb2-150e_coco.py')
    assert cfg.optim_wrapper == before.optim_wrapper


def test_a_last_stage_as_head_gets_the_width_it_takes():
    cfg = exchanged('mmdet::faster_rcnn/faster-rcnn_r50-caffe-c4_ms-1x_coco.py')
    assert cfg.model.backbone.out_indices == (2,)
    assert cfg.model.neck.in_channels == [192] and cfg.model.neck.out_channels == 1024
    assert cfg.model.rpn_head.in_channels == 1024


def test_heads_of_mmseg_choose_from_fewer_maps():
    cfg = exchanged('mmseg::deeplabv3/deeplabv3_r50-d8_4xb2-40k_cityscapes-512x1024.py')
    assert cfg.model.pretrained is None
    assert cfg.model.backbone.out_indices == (2, 3)
    head, auxiliary = cfg.model.decode_head, cfg.model.auxiliary_head
    assert (head.in_index, head.in_channels) == (1, 288)
    assert (auxiliary.in_index, auxiliary.in_channels) == (0, 192)


def test_a_map_that_in_index_does_not_name():
    cfg = exchanged('mmseg::deeplabv3plus/deeplabv3plus_r50-d8_4xb2-40k_cityscapes-512x1024.py')
    assert cfg.model.backbone.out_indices == (0, 2, 3)
    assert cfg.model.decode_head.c1_in_channels == 48 and cfg.model.decode_head.in_index == 2
    assert cfg.model.auxiliary_head.in_index == 1


def test_a_neck_that_passes_maps_on():
    """JPU gives two maps of the backbone as they are, and one of its own width."""
    cfg = exchanged('mmseg::fastfcn/fastfcn_r50-d32_jpu_psp_4xb2-80k_cityscapes-512x1024.py')
    assert cfg.model.neck.in_channels == (96, 192, 288)
    assert cfg.model.decode_head.in_channels == 2048
    assert cfg.model.auxiliary_head.in_channels == 192


def test_nested_heads_and_their_own_widths():
    cfg = exchanged('mmseg::knet/knet-s3_r50-d8_deeplabv3_8xb2-adamw-80k_ade20k-512x512.py')
    assert cfg.model.decode_head.kernel_generate_head.in_channels == 288
    assert cfg.model.decode_head.kernel_update_head[0].in_channels == 512
    assert cfg.model.auxiliary_head.in_channels == 192


def test_a_model_inside_of_another():
    cfg = exchanged(
        'mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py'
    )
    assert cfg.model.detector.backbone.type == 'mambaout_mm.MambaOut'
    assert cfg.model.detector.neck.in_channels == [48, 96, 192, 288]


def test_a_map_that_a_head_names_and_does_not_use():
    """EncNet names three maps and takes the last of them."""
    cfg = exchanged('mmseg::encnet/encnet_r50-d8_4xb2-40k_cityscapes-512x1024.py')
    assert cfg.model.backbone.out_indices == (1, 2, 3)
    assert cfg.model.decode_head.in_index == (0, 1, 2)
    assert cfg.model.decode_head.in_channels == [96, 192, 288]
    assert cfg.find_unused_parameters


def test_the_resnet_inside_of_bisenet():
    cfg = exchanged('mmseg::bisenetv1/bisenetv1_r50-d32_4xb4-160k_cityscapes-1024x1024.py')
    backbone = cfg.model.backbone
    assert backbone.type == 'BiSeNetV1' and backbone.backbone_cfg.type == 'mambaout_mm.MambaOut'
    assert backbone.context_channels == (96, 192, 288)
    assert backbone.context_channels[0] + backbone.spatial_channels[-1] == 192
    assert [head.in_channels for head in cfg.model.auxiliary_head] == [96, 96]
    assert cfg.find_unused_parameters


def test_a_network_of_one_width_inside_of_bisenet():
    config = stock('mmseg::bisenetv1/bisenetv1_r50-d32_4xb4-160k_cityscapes-1024x1024.py')
    with pytest.raises(UserError, match='BiSeNetV1, which needs wider maps .* has 192 and 192'):
        transplant(config, *entries_of(['Vim-Ti']))


def test_what_was_inside_of_the_resnet_is_told():
    name = 'mmdet::dcn/faster-rcnn_r50-dconv-c3-c5_fpn_1x_coco.py'
    (note,) = [n for n in transplant(stock(name), FEMTO).notes if 'dcn' in n]
    assert 'which this backbone has not' in note


def test_the_stock_config_is_left_alone():
    before = stock('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py')
    text = before.text, str(before)
    transplant(before, FEMTO)
    assert (before.text, str(before)) == text


@pytest.mark.parametrize(
    ('name', 'words'),
    [
        ('mmdet::tridentnet/tridentnet_r50-caffe_1x_coco.py', 'TridentResNet: the three branches'),
        ('mmdet::detectors/cascade-rcnn_r50-rfp_1x_coco.py', 'DetectoRS_ResNet: its neck'),
        ('mmseg::icnet/icnet_r50-d8-in1k-pre_4xb2-160k_cityscapes-832x832.py', 'ICNet: it runs'),
        (
            'mmdet::qdtrack/qdtrack_faster-rcnn_r50_fpn_8xb2-4e_mot17halftrain_test-mot17halfval.py',
            'takes videos',
        ),
        (
            'mmdet::reid/reid_r50_8xb32-6e_mot15train80_test-mot15val20.py',
            'tells persons apart',
        ),
        ('mmdet::grounding_dino/grounding_dino_r50_scratch_8xb2_1x_coco.py', 'takes texts'),
    ],
    ids=lambda value: value.split('/')[0],
)
def test_models_that_cannot_have_another_backbone(name, words):
    with pytest.raises(UserError, match=words):
        transplant(stock(name), FEMTO)


def test_a_config_without_a_backbone():
    with pytest.raises(UserError, match='no model.backbone'):
        transplant(Config(dict(model=dict(type='RetinaNet'))), FEMTO)
    with pytest.raises(UserError, match='no model'):
        transplant(Config(dict(default_scope='mmdet')), FEMTO)


@pytest.mark.parametrize(
    ('backbone', 'weights'),
    [
        ('VMamba:tiny_s1l8', 'vmamba://tiny_s1l8'),
        ('TimmPyramid:resnet18', None),
        ('MambaOut:arch="femto",mixer="ssm"', None),
    ],
)
def test_published_weights_of_other_backbones(backbone, weights):
    (network,) = entries_of([backbone])
    new, notes = transplant(stock('mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'), network)
    init = new.model.backbone.get('init_cfg')
    assert (init and init['checkpoint']) == weights
    assert any('starts at random' in note for note in notes) == (weights is None)


def test_a_backbone_that_is_not_ours():
    (network,) = entries_of(['mmdet.ResNet:depth=18'])
    with pytest.raises(UserError, match='no backbone of this project'):
        transplant(stock('mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'), network)


def test_our_own_configs_can_be_used_as_well():
    path = ROOT / 'configs' / 'segmentation' / 'upernet_mambaout_t.py'
    cfg = transplant(Config.fromfile(path), FEMTO).cfg
    assert cfg.model.decode_head.in_channels == [48, 96, 192, 288]
    assert cfg.model.auxiliary_head.in_channels == 192
