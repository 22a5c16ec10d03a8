"""Maps that nobody uses are told before DistributedDataParallel stops at their norms."""

import pytest
import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.registry import init_default_scope
from support import ROOT

from mambaout_mm.errors import UserError
from mambaout_mm.training.run import train
from mambaout_mm.training.unused_maps import check_distributed, used_maps
from mambaout_mm.transplant.samples import batch
from mambaout_mm.transplant.trial import build_for_trial

FOLDER = ROOT / 'configs'
RETINANET = FOLDER / 'detection' / 'retinanet_mambaout_t.py'
MASKRCNN = FOLDER / 'detection' / 'maskrcnn_mambaout_femto.py'
UPERNET = FOLDER / 'segmentation' / 'upernet_mambaout_femto.py'
VIM = FOLDER / 'segmentation' / 'upernet_vim_t.py'
DEEPLAB = FOLDER / 'segmentation' / 'deeplabv3plus_mambaout_t.py'

# FPN leaves the first of four maps
SKIPPING = {
    'model.backbone.arch': 'femto',
    'model.backbone.out_indices': (0, 1, 2, 3),
    'model.neck.in_channels': [48, 96, 192, 288],
    'model.neck.start_level': 1,
}
HEAD = dict(channels=16, num_classes=150, align_corners=False)
ONE_MAP = dict(type='FCNHead', in_channels=288, in_index=3, **HEAD)


def changed(path, options):
    cfg = Config.fromfile(path)
    cfg.merge_from_dict(options)
    return cfg


@pytest.mark.parametrize(
    'path', [RETINANET, MASKRCNN, UPERNET, VIM, DEEPLAB], ids=lambda path: path.stem
)
def test_our_own_configs_use_every_map(path):
    check_distributed(Config.fromfile(path))


def test_fpn_that_starts_later():
    with pytest.raises(
        UserError,
        match=r'map of stage 0, so that backbone.norm0 .*out_indices=\(1, 2, 3\).*'
        'find_unused_parameters=True',
    ):
        check_distributed(changed(RETINANET, SKIPPING))


def test_heads_that_take_one_map():
    cfg = Config.fromfile(UPERNET)
    cfg.model.decode_head = ONE_MAP
    cfg.model.auxiliary_head = dict(ONE_MAP, in_index=2, in_channels=192)
    with pytest.raises(UserError, match=r'stage 0, 1, .*norm0, backbone.norm1 .*=\(2, 3\)'):
        check_distributed(cfg)


def test_the_level_of_a_network_of_one_resolution():
    cfg = Config.fromfile(VIM)
    width = cfg.model.decode_head.in_channels[0]
    cfg.model.decode_head = dict(ONE_MAP, in_channels=width)
    cfg.model.auxiliary_head = None
    with pytest.raises(UserError, match=r'backbone.fpn1, .*backbone.fpn2'):
        check_distributed(cfg)


def test_a_map_that_a_head_takes_beside_in_index_is_used():
    """DeepLabV3+ takes the first map, which its in_index does not name."""
    head = dict(type='DepthwiseSeparableASPPHead', dilations=(1, 2), c1_in_channels=48)
    head |= dict(ONE_MAP, type=head['type'], c1_channels=8)
    model = dict(decode_head=[dict(head)])
    init_default_scope('mmseg')
    assert used_maps(model, (48, 96, 192, 288), (4, 8, 16, 32)) == (0, 3)


@pytest.mark.parametrize(
    'options',
    [
        {'find_unused_parameters': True},
        {'model_wrapper_cfg': dict(type='MMDistributedDataParallel', static_graph=True)},
        {'model_wrapper_cfg': dict(type='MMFullyShardedDataParallel')},
        {'model.backbone.output_norm': False},
        {'model.backbone.frozen_stages': 1},  # its norm is not trained
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_does_not_stop_is_not_refused(options):
    check_distributed(changed(RETINANET, SKIPPING | options))


def test_what_cannot_be_told_is_not_refused():
    cfg = changed(RETINANET, SKIPPING)
    cfg.model.neck.type = 'NoSuchNeck'
    check_distributed(cfg)
    cfg = Config.fromfile(MASKRCNN)
    cfg.model.neck = None  # heads of a detector without a neck
    check_distributed(cfg)


@pytest.fixture
def one_process_group(tmp_path):
    dist.init_process_group('gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize('start', [1, 0])
def test_torch_stops_where_it_is_said(start, one_process_group):
    options = dict(SKIPPING)
    if start == 0:
        options['model.backbone.out_indices'] = (1, 2, 3)
        options['model.neck.in_channels'] = [96, 192, 288]
        options['model.neck.start_level'] = 0
    cfg = changed(RETINANET, options)
    size = (64, 96)
    model = build_for_trial(cfg, size)
    data = model.data_preprocessor(batch(cfg, size), True)
    wrapped = torch.nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)

    def step():
        losses = wrapped(**data, mode='loss')
        model.parse_losses(losses)[0].backward()

    step()
    if start == 1:
        with pytest.raises(UserError, match='norm0'):
            check_distributed(cfg)
        with pytest.raises(RuntimeError, match='Expected to have finished reduction'):
            step()
    else:
        check_distributed(cfg)
        step()


def test_a_distributed_training_is_told_before_it_starts():
    with pytest.raises(UserError, match=r'backbone.norm0 will have no gradients'):
        train(str(RETINANET), launcher='pytorch', cfg_options=SKIPPING)
