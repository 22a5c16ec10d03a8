"""Every config builds, costs what the paper says, and states its recipe."""

import re

import pytest
import timm
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from support import CONFIGS, ROOT

from mambaout_mm.backbones import MambaOut
from mambaout_mm.checkpoints.catalogue import CATALOGUE, UNPUBLISHED
from mambaout_mm.comparison import model_complexity
from mambaout_mm.measure.complexity import build_model, count_macs

# Rows of UperNet that their papers print with heads of their own: channels of the head, parameters,
# MACs. LocalVMamba's and EfficientVMamba-B's rows are checked at full size by `make costs`.
AUTHORS_HEADS = {
    ('EfficientVMamba', 'small'): (384, 29, 505),
    ('PlainMamba', 'l2'): (512, 55, 285),
}
# Learning rates of configs that repeat their authors' recipe and not the one of all others.
PUBLISHED_RATES = {path.stem: 6e-5 for path in CONFIGS if path.stem.endswith('_published')}

SIZES = {'maskrcnn': (800, 1280), 'upernet': (512, 2048)}


def load_config(name):
    folder = 'segmentation' if name.startswith(('upernet', 'deeplab')) else 'detection'
    return Config.fromfile(ROOT / 'configs' / folder / f'{name}.py')


@pytest.mark.parametrize('path', CONFIGS, ids=lambda p: p.stem)
def test_neck_and_heads_take_the_widths_of_the_backbone(path):
    cfg = Config.fromfile(path)
    with torch.device('meta'):
        channels = build_model(cfg).backbone.out_channels
    if 'neck' in cfg.model:
        assert tuple(cfg.model.neck.in_channels) == channels
    for name in {'decode_head', 'auxiliary_head'} & set(cfg.model):
        head = cfg.model[name]
        many = isinstance(head.in_index, list)
        taken = [channels[i] for i in head.in_index] if many else channels[head.in_index]
        assert head.in_channels == taken, name


@pytest.mark.slow
@pytest.mark.parametrize(('family', 'arch'), AUTHORS_HEADS)
def test_costs_what_is_published_with_the_heads_of_its_authors(family, arch):
    """Of two tiles of the image, and their difference for every further one."""
    channels, params, macs = AUTHORS_HEADS[family, arch]
    cfg = load_config('upernet_mambaout_t')
    plain = dict(pyramid=None) if family == 'PlainMamba' else {}
    cfg.model.backbone = dict(type=f'mambaout_mm.{family}', arch=arch, **plain)
    widths = list(MODELS.build(cfg.model.backbone).out_channels)
    cfg.model.decode_head.update(in_channels=widths, channels=channels)
    cfg.model.auxiliary_head.in_channels = widths[2]
    one, two = (model_complexity(cfg, (128, width)) for width in (128, 256))
    assert one.params / 1e6 == pytest.approx(params, abs=1)
    counted = one.macs + (SIZES['upernet'][0] * SIZES['upernet'][1] // 128**2 - 1) * (
        two.macs - one.macs
    )
    assert counted / 1e9 == pytest.approx(macs, rel=0.02)


# MambaOut-T and its twins with another token mixer, from random weights.
FROM_SCRATCH = re.compile('_(scratch|identity|(?<!conv_)ssm|attention)(_stages34)?$')
# ViTDet's heads in place of Cascade R-CNN's
VITDET = (
    'norm_cfg',  # a variable of the file
    'model.rpn_head.num_convs',
    'model.roi_head.bbox_head',
    'model.roi_head.mask_head.norm_cfg',
)
# Its authors' auxiliary head on the last map, and test images of sides that 32 divides
PLAINMAMBA = {'test_pipeline', 'model.auxiliary_head.in_index'} | {
    f'{split}_dataloader.dataset.pipeline' for split in ('val', 'test')
}


@pytest.mark.parametrize('path', CONFIGS, ids=lambda p: p.stem)
def test_recipe(path):
    cfg = Config.fromfile(path)
    optimizer = cfg.optim_wrapper.optimizer
    detection = 'detection' in path.parts
    assert (optimizer.type, optimizer.lr) == ('AdamW', PUBLISHED_RATES.get(path.stem, 1e-4))
    assert optimizer.weight_decay == (0.05 if detection else 0.01)
    assert cfg.auto_scale_lr.base_batch_size == 16 == 4 * cfg.train_dataloader.batch_size
    assert cfg.val_dataloader.batch_size == 1
    backbone = cfg.model.backbone
    assert 0 < backbone.drop_path_rate < 1  # each has its own, with the source in the config
    assert backbone.get('output_norm', True)
    if detection:
        epochs = 36 if path.stem.endswith('_3x') else 12
        assert cfg.train_cfg.max_epochs == epochs == cfg.param_scheduler[1].end
        assert cfg.param_scheduler[1].milestones == ([27, 33] if epochs == 36 else [8, 11])
    else:
        assert cfg.train_cfg.max_iters == 160000 == cfg.param_scheduler[1].end
    if FROM_SCRATCH.search(path.stem):
        assert backbone.init_cfg is None
        return
    # VMamba's files of the second release hold two networks (docs/comparators.md)
    second = backbone.type == 'mambaout_mm.VMamba' and not backbone.arch.endswith('_v0')
    key = dict(key='model') if second else {}
    checkpoint = backbone.init_cfg.checkpoint
    assert backbone.init_cfg == dict(type='Pretrained', checkpoint=checkpoint, **key)
    scheme, _, variant = checkpoint.partition('://')
    if scheme == 'timm':
        assert variant in timm.list_models(pretrained=True)
        assert variant.split('.')[0] == backbone.model_name
    else:
        assert checkpoint in {**CATALOGUE, **UNPUBLISHED}
        assert variant == backbone.get('arch') or f'{scheme}_{variant}' == backbone.model_name


@pytest.mark.parametrize(
    'path', [p for p in CONFIGS if p.stem.endswith('_3x')], ids=lambda p: p.stem
)
def test_3x_trains_the_same_model_as_1x(path):
    once = Config.fromfile(path.with_name(f'{path.stem.removesuffix("_3x")}.py')).model
    long = Config.fromfile(path).model
    if 'convnext' in path.stem:  # its authors have a drop path for 36 epochs
        long.backbone.drop_path_rate = once.backbone.drop_path_rate
    assert long == once


def differences(ours, base, path=''):
    """Dotted paths at which two configs differ."""
    if isinstance(ours, dict) and isinstance(base, dict):
        for key in sorted(ours.keys() | base.keys()):
            dotted = f'{path}.{key}' if path else key
            yield from differences(ours.get(key), base.get(key), dotted)
    elif ours != base:
        yield path


@pytest.mark.parametrize('path', CONFIGS, ids=lambda p: p.stem)
def test_one_recipe(path):
    """Beside MambaOut-T's config of the same heads and length: the backbone and its widths."""
    heads = re.match('(cascade_maskrcnn|[a-z0-9]+)_', path.stem)[1]
    base = load_config(f'{heads}_mambaout_t{"_3x" if path.stem.endswith("_3x") else ""}')
    allowed = {f'model.{part}.in_channels' for part in ('neck', 'decode_head', 'auxiliary_head')}
    if path.stem in PUBLISHED_RATES:
        allowed.add('optim_wrapper.optimizer.lr')
    if 'plainmamba' in path.stem and path.stem in PUBLISHED_RATES:
        allowed.update(PLAINMAMBA)
    if path.stem == 'cascade_maskrcnn_vim_t':
        allowed.update(VITDET)
    if path.stem == 'cascade_maskrcnn_deit_t':
        base = load_config('cascade_maskrcnn_vim_t')
    differing = set(differences(Config.fromfile(path).to_dict(), base.to_dict()))
    assert [name for name in differing - allowed if not name.startswith('model.backbone.')] == []


@pytest.mark.parametrize('task', ['maskrcnn', 'upernet'])
@pytest.mark.parametrize('name', ['identity', 'ssm', 'ssm_stages34', 'attention_stages34'])
def test_a_twin_costs_what_mambaout_costs(task, name):
    size = 512 if 'attention' in name else 128  # attention's cost grows otherwise
    plain, twin = (
        count_macs(MODELS.build(load_config(f'{task}_mambaout_t_{x}').model.backbone).eval(),
                   torch.zeros(1, 3, size, size))
        for x in ('scratch', name)
    )  # fmt: skip
    assert twin == pytest.approx(plain, rel=0.01)


@pytest.mark.parametrize('name', ['conv_ssm', 'conv_ssm_stages34'])
def test_with_an_ssm_it_starts_from_mambaouts_weights(name):
    backbone = load_config(f'maskrcnn_mambaout_t_{name}').model.backbone
    assert backbone.init_cfg.checkpoint == 'mambaout://tiny'
    _, fresh = MODELS.build(backbone).match_checkpoint(MambaOut('tiny').state_dict())
    assert fresh and all(part.endswith('.ssm') for part in fresh)
