"""A neck or head that expects other maps than it gets is told before anything is trained."""

import pytest
from mmengine.config import Config
from support import CONFIGS, ROOT

from mambaout_mm.errors import UserError
from mambaout_mm.training.parts import check_parts

FOLDER = ROOT / 'configs'
MASKRCNN = FOLDER / 'detection' / 'maskrcnn_mambaout_femto.py'
RETINANET = FOLDER / 'detection' / 'retinanet_mambaout_t.py'
UPERNET = FOLDER / 'segmentation' / 'upernet_mambaout_femto.py'
ONE_OF_EACH = [p for p in CONFIGS if p.stem.endswith(('_t', '_femto', '_l1', 'efficientvmamba_b'))]


@pytest.mark.parametrize('path', ONE_OF_EACH, ids=lambda path: path.stem)
def test_our_own_configs_fit(path):
    check_parts(Config.fromfile(path))


@pytest.mark.parametrize(
    ('path', 'options', 'words'),
    [
        (
            MASKRCNN,
            {'model.neck.in_channels': [96, 192, 384, 576]},
            r'model.neck \(FPN\) expects in_channels=\[96, 192, 384, 576\], but '
            r'mambaout_mm.MambaOut gives maps of \[48, 96, 192, 288\] channels \(its out_channels\)'
            r': write model.neck.in_channels=\[48, 96, 192, 288\]',
        ),
        (MASKRCNN, {'model.neck.in_channels': [48, 96, 192]}, r'in_channels=\[48, 96, 192\], but'),
        (MASKRCNN, {'model.backbone.out_indices': [1, 2, 3]}, r'write .*=\[96, 192, 288\]'),
        (MASKRCNN, {'model.backbone.arch': 'tiny'}, r'write .*=\[96, 192, 384, 576\]'),
        (MASKRCNN, {'model.neck.num_outs': 4}, 'anchor_generator.strides has 5 entries.*4 maps'),
        (MASKRCNN, {'model.neck.out_channels': 128}, 'model.rpn_head expects in_channels=256'),
        (
            MASKRCNN,
            {'model.neck.out_channels': 128, 'model.rpn_head.in_channels': 128},
            'bbox_roi_extractor expects maps of 256 channels.*write .*out_channels=128',
        ),
        (RETINANET, {'model.bbox_head.in_channels': 96}, 'model.bbox_head expects in_channels=96'),
        (UPERNET, {'model.decode_head.in_channels': [96, 192, 384, 576]}, 'model.decode_head exp'),
        (UPERNET, {'model.auxiliary_head.in_channels': 384}, r'takes 2: write .*in_channels=192'),
        (
            UPERNET,
            {'model.backbone.out_indices': [0, 1, 2]},
            r'model.decode_head.in_index=\[0, 1, 2, 3\] asks for map 3, but .*out_indices',
        ),
    ],
)
def test_parts_that_do_not_fit(path, options, words):
    cfg = Config.fromfile(path)
    cfg.merge_from_dict(options)
    with pytest.raises(UserError, match=words):
        check_parts(cfg)


def test_a_backbone_that_is_not_ours_is_left_to_its_builder():
    cfg = Config.fromfile(MASKRCNN)
    cfg.model.backbone = dict(type='ResNet', depth=50)
    check_parts(cfg)
