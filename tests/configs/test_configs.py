"""Every config builds, costs what the paper says, and states its recipe."""

import functools
import re

import pytest
import timm
import torch
import yaml
from mmengine.config import Config
from mmengine.registry import MODELS
from support import CONFIGS, ROOT

from mambaout_mm.comparison import model_complexity
from mambaout_mm.comparison.counting import LEFT_OUT
from mambaout_mm.measure.complexity import (
    build_model,
    count_by_operator,
    count_macs,
    prepare_for_counting,
)

# Parameters in millions: the paper's tables 2 and 3, to more digits; femto and kobe are not there.
PARAMS = {
    'maskrcnn_mambaout_femto': 25.88,
    'maskrcnn_mambaout_kobe': 27.72,
    'maskrcnn_mambaout_t': 43.13,
    'maskrcnn_mambaout_s': 65.08,
    'maskrcnn_mambaout_b': 99.70,
    'maskrcnn_convnext_t': 48.10,
    'maskrcnn_convnext_s': 69.73,
    'maskrcnn_convnext_b': 107.97,
    'maskrcnn_swin_t': 47.79,
    'maskrcnn_swin_s': 69.11,
    'maskrcnn_swin_b': 107.14,
    'maskrcnn_vmamba_t': 49.76,
    'maskrcnn_vmamba_t_s2l5': 50.21,
    'maskrcnn_vmamba_s': 69.65,
    'maskrcnn_vmamba_b': 107.93,
    'maskrcnn_localvmamba_t': 45.03,
    'maskrcnn_localvmamba_s': 69.25,
    'maskrcnn_efficientvmamba_b': 53.22,
    'maskrcnn_vim_t': 27.50,
    'maskrcnn_vim_s': 47.48,
    'maskrcnn_plainmamba_l1': 27.90,
    'maskrcnn_plainmamba_l2': 47.83,
    'upernet_mambaout_femto': 34.43,
    'upernet_mambaout_kobe': 36.27,
    'upernet_mambaout_t': 54.05,
    'upernet_mambaout_s': 75.99,
    'upernet_mambaout_b': 112.20,
    'upernet_convnext_t': 60.24,
    'upernet_convnext_s': 81.88,
    'upernet_convnext_b': 122.10,
    'upernet_swin_t': 59.94,
    'upernet_swin_s': 81.26,
    'upernet_swin_b': 121.28,
    'upernet_vmamba_t': 61.90,
    'upernet_vmamba_t_s2l5': 62.36,
    'upernet_vmamba_s': 81.80,
    'upernet_vmamba_b': 122.07,
    'upernet_localvmamba_t': 57.18,
    'upernet_localvmamba_s': 81.40,
    'upernet_efficientvmamba_b': 65.37,
    'upernet_vim_t': 35.49,
    'upernet_vim_s': 57.30,
    'upernet_plainmamba_l1': 35.90,
    'upernet_plainmamba_l2': 57.65,
}
# The paper's tables 2 and 3: parameters in millions, MACs in 1e9.
PAPER_TABLES = {
    'maskrcnn_mambaout_t': (43, 262),
    'maskrcnn_mambaout_s': (65, 354),
    'maskrcnn_mambaout_b': (100, 495),
    'maskrcnn_convnext_t': (48, 262),
    'maskrcnn_convnext_s': (70, 348),
    'maskrcnn_convnext_b': (108, 486),
    'maskrcnn_swin_t': (48, 267),
    'maskrcnn_swin_s': (69, 354),
    'maskrcnn_swin_b': (107, 496),
    'upernet_mambaout_t': (54, 938),
    'upernet_mambaout_s': (76, 1032),
    'upernet_mambaout_b': (112, 1178),
    'upernet_convnext_t': (60, 939),
    'upernet_convnext_s': (82, 1027),
    'upernet_convnext_b': (122, 1170),
    'upernet_swin_t': (60, 945),
    'upernet_swin_s': (81, 1038),
    'upernet_swin_b': (121, 1188),
}
# MzeroMiko/VMamba at 2ed52ea: analyze/flops.py for detection, README for segmentation.
VMAMBA_TABLES = {
    'maskrcnn_vmamba_t': (50, 271.16),
    'maskrcnn_vmamba_t_s2l5': (50, 270.19),
    'maskrcnn_vmamba_s': (70, 348.92),
    'maskrcnn_vmamba_b': (108, 485.50),
    'upernet_vmamba_t': (62, 949),
    'upernet_vmamba_t_s2l5': (62, 948),
    'upernet_vmamba_s': (82, 1028),
    'upernet_vmamba_b': (122, 1170),
}
# The first release, in MambaOut's tables "VMamba": no config, since v2 replaced it.
VMAMBA_V0 = {
    ('maskrcnn', 'tiny_v0'): 286,
    ('maskrcnn', 'small_v0'): 400,
    ('maskrcnn', 'base_v0'): 540,
    ('upernet', 'tiny_v0'): 964,
    ('upernet', 'small_v0'): 1081,
    ('upernet', 'base_v0'): 1226,
}
# Rows of UperNet that their papers print with heads of their own: channels of the head, parameters,
# MACs. LocalVMamba's and EfficientVMamba-B's rows are checked at full size by `make costs`.
AUTHORS_HEADS = {
    ('EfficientVMamba', 'small'): (384, 29, 505),
    ('PlainMamba', 'l2'): (512, 55, 285),
    ('PlainMamba', 'l3'): (512, 81, 419),
}
# These two of the paper's rows (as VMamba's, from which it took them) leave out attention's two
# matrix products, 5.2 and 7.0; its other rows of Swin have them, and so has our count: 359.2 and
# 503.9. Swin's authors give 359 for Swin-S (README of Swin-Transformer-Object-Detection).
WITHOUT_ATTENTION = ('maskrcnn_swin_s', 'maskrcnn_swin_b')
# Not rounded but cut off, it seems: 348.69 and 496.91 are printed as 348 and 496.
CUT_OFF = {'maskrcnn_convnext_s': 0.75, 'maskrcnn_swin_b': 0.95}

# What init_cfg has beside type='Pretrained'.
INIT = {
    'mambaout_mm.MambaOut': lambda backbone: dict(checkpoint=f'mambaout://{backbone.arch}'),
    'mambaout_mm.VMamba': lambda backbone: dict(
        checkpoint=f'vmamba://{backbone.arch}', key='model'
    ),
    **{
        f'mambaout_mm.{family}': lambda backbone: dict(
            checkpoint=f'{backbone.type.split(".")[1].lower()}://{backbone.arch}'
        )
        for family in ('LocalVMamba', 'EfficientVMamba', 'Vim', 'PlainMamba')
    },
    'mambaout_mm.TimmPyramid': lambda backbone: dict(
        checkpoint=f'timm://{backbone.model_name}.ms_in1k'
        if backbone.model_name.startswith('swin')
        else backbone.model_name.replace('convnext_', 'convnext://')
    ),
}
# Drop path, from the source that each config names: detection (12 epochs, and MambaOut's 36) and
# segmentation.
DROP_PATH = {
    'mambaout_femto': (0.2, 0.3),
    'mambaout_kobe': (0.2, 0.3),
    'mambaout_t': (0.2, 0.3),
    'mambaout_s': (0.2, 0.3),
    'mambaout_b': (0.3, 0.6),
    'convnext_t': (0.2, 0.4),
    'convnext_s': (0.3, 0.3),
    'convnext_b': (0.4, 0.4),
    'swin_t': (0.2, 0.3),
    'swin_s': (0.2, 0.3),
    'swin_b': (0.3, 0.3),
    'vmamba_t': (0.2, 0.2),
    'vmamba_t_s2l5': (0.2, 0.2),
    'vmamba_s': (0.3, 0.3),
    'vmamba_b': (0.6, 0.6),
    'localvmamba_t': (0.2, 0.1),
    'localvmamba_s': (0.2, 0.2),
    'efficientvmamba_b': (0.2, 0.2),
    'vim_t': (0.1, 0.1),
    'vim_s': (0.1, 0.1),
    'plainmamba_l1': (0.1, 0.1),
    'plainmamba_l2': (0.2, 0.2),
}
# Learning rates of configs that repeat their authors' recipe and not the one of all others.
PUBLISHED_RATES = {path.stem: 6e-5 for path in CONFIGS if path.stem.endswith('_published')}

SIZES = {'maskrcnn': (800, 1280), 'upernet': (512, 2048)}


def load_config(name):
    folder = 'segmentation' if name.startswith(('upernet', 'deeplab')) else 'detection'
    return Config.fromfile(ROOT / 'configs' / folder / f'{name}.py')


@pytest.mark.parametrize('path', CONFIGS, ids=lambda p: p.stem)
def test_builds_with_the_expected_number_of_parameters_and_widths(path):
    cfg = Config.fromfile(path)
    model = build_model(cfg)
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    expected = PARAMS.get(re.sub('_(3x|published)$', '', path.stem))
    if expected is None:  # cascade, RetinaNet, DeepLabV3+: the paper has no such row
        assert 30 < millions < 80
    else:
        assert round(millions, 2) == expected
    channels = model.backbone.out_channels
    if 'neck' in cfg.model:
        assert tuple(cfg.model.neck.in_channels) == channels
    for name in {'decode_head', 'auxiliary_head'} & set(cfg.model):
        head = cfg.model[name]
        many = isinstance(head.in_index, list)
        taken = [channels[i] for i in head.in_index] if many else channels[head.in_index]
        assert head.in_channels == taken, name


@functools.cache
def macs_behind_the_backbone(head, dims):
    """MACs of neck and heads for maps of these widths, and those that MambaOut's tables leave out.

    UperNet's are those of two tiles of the image, and the difference for every further tile: all of
    it costs the same for each pixel, but for the pooled maps, whose size does not change. A test
    below compares with the whole model at full size.
    """
    cfg = load_config(f'{head}_mambaout_t')
    cfg.model.backbone.arch = dict(depths=(1, 1, 1, 1), dims=dims)
    for part in {'neck', 'decode_head'} & set(cfg.model):
        cfg.model[part].in_channels = list(dims)
    if head == 'upernet':
        cfg.model.auxiliary_head.in_channels = dims[2]
    backbone = MODELS.build(cfg.model.backbone).eval()

    def count(*size):
        image = torch.zeros(1, 3, *size)
        whole = count_by_operator(prepare_for_counting(build_model(cfg), size), image)
        macs = sum(whole.values()) - count_macs(backbone, image)
        return macs, sum(n for name, n in whole.items() if name.startswith(LEFT_OUT))

    if head == 'maskrcnn':  # on a tile there are fewer proposals
        return count(*SIZES[head])
    tiles = SIZES[head][0] * SIZES[head][1] // (128 * 128)
    pairs = zip(count(128, 128), count(128, 256), strict=True)
    return tuple(one + (tiles - 1) * (two - one) for one, two in pairs)


@functools.cache
def macs_of_backbone(arguments, size):
    """MACs by operator at a size, counted on a tile of the image where that gives the same numbers.

    Every layer here costs the same for each pixel. Swin's windows are padded to fill the map: it is
    counted at full size.
    """
    backbone = MODELS.build(dict(arguments)).eval()
    height, width = size
    if 'swin' not in str(arguments):
        height = width = 160 if size == SIZES['maskrcnn'] else 128  # 5 x 8 or 4 x 16 tiles
    tiles = size[0] * size[1] // (height * width)
    counted = count_by_operator(backbone, torch.zeros(1, 3, height, width))
    return {name: tiles * macs for name, macs in counted.items()}, backbone.dims


def macs_at(head, backbone):
    """MACs of a whole model; those that MambaOut's tables leave out; those of attention."""
    arguments = {k: v for k, v in backbone.items() if k not in ('init_cfg', 'drop_path_rate')}
    own, dims = macs_of_backbone(tuple(arguments.items()), SIZES[head])
    heads, left_out = macs_behind_the_backbone(head, dims)
    return sum(own.values()) + heads, left_out, own.get('matmul', 0)


@pytest.mark.slow
@pytest.mark.parametrize('name', PAPER_TABLES | VMAMBA_TABLES)
def test_costs_what_the_published_tables_say(name):
    params, macs = (PAPER_TABLES | VMAMBA_TABLES)[name]
    assert PARAMS[name] == pytest.approx(params, abs=0.5)
    head = name.split('_')[0]
    backbone = load_config(name).model.backbone
    counted, left_out, attention = macs_at(head, backbone)
    if name in WITHOUT_ATTENTION:
        counted -= attention
    if name in VMAMBA_TABLES:
        assert counted / 1e9 == pytest.approx(macs, rel=5e-4)
    else:
        assert (counted - left_out) / 1e9 == pytest.approx(macs, abs=CUT_OFF.get(name, 0.5))


@pytest.mark.slow
@pytest.mark.parametrize(('head', 'arch'), VMAMBA_V0)
def test_vmambas_first_release_costs_what_its_table_says(head, arch):
    backbone = dict(type='mambaout_mm.VMamba', arch=arch)
    assert macs_at(head, backbone)[0] / 1e9 == pytest.approx(VMAMBA_V0[head, arch], abs=0.5)


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


@pytest.mark.slow
@pytest.mark.parametrize('name', ['maskrcnn_mambaout_t', 'upernet_vmamba_t'])
def test_backbone_and_heads_add_up_to_the_whole(name):
    cfg = load_config(name)
    head = name.split('_')[0]
    assert model_complexity(cfg, SIZES[head]).macs == macs_at(head, cfg.model.backbone)[0]


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
    heads = '^.*(maskrcnn|retinanet|upernet|deeplabv3plus)_'
    network = re.sub(f'{heads}|_(3x|published)$', '', path.stem)
    assert backbone.drop_path_rate == DROP_PATH[network][not detection]
    assert backbone.get('output_norm', True)
    init = INIT[backbone.type](backbone)
    assert backbone.init_cfg == dict(type='Pretrained', **init)
    if init['checkpoint'].startswith('timm://'):
        assert init['checkpoint'].removeprefix('timm://') in timm.list_models(pretrained=True)
    if detection:
        epochs = 36 if path.stem.endswith('_3x') else 12
        assert cfg.train_cfg.max_epochs == epochs == cfg.param_scheduler[1].end
        assert cfg.param_scheduler[1].milestones == ([27, 33] if epochs == 36 else [8, 11])
    else:
        assert cfg.train_cfg.max_iters == 160000 == cfg.param_scheduler[1].end


@pytest.mark.parametrize(
    'path', [p for p in CONFIGS if p.stem.endswith('_3x')], ids=lambda p: p.stem
)
def test_3x_trains_the_same_model_as_1x(path):
    once = Config.fromfile(path.with_name(f'{path.stem.removesuffix("_3x")}.py'))
    assert Config.fromfile(path).model == once.model


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
    heads = re.match('(.+?)_(mambaout|convnext|swin|\\w*vmamba|vim|plainmamba)_', path.stem)[1]
    base = load_config(f'{heads}_mambaout_t{"_3x" if path.stem.endswith("_3x") else ""}')
    allowed = {f'model.{part}.in_channels' for part in ('neck', 'decode_head', 'auxiliary_head')}
    if path.stem in PUBLISHED_RATES:
        allowed.add('optim_wrapper.optimizer.lr')
    differing = set(differences(Config.fromfile(path).to_dict(), base.to_dict()))
    assert [name for name in differing - allowed if not name.startswith('model.backbone.')] == []


def test_readme_tables_have_our_parameters():
    """Those that a test above counts; cascade, RetinaNet and DeepLabV3+ are counted here."""
    rows = re.findall(r'^\| `(\w+)` \| ([\d.]+)', (ROOT / 'README.md').read_text(), flags=re.M)
    twins = ('_3x', '_published')
    names = {path.stem for path in CONFIGS if not path.stem.endswith(twins)}
    assert {name for name, _ in rows} == names
    for name, millions in rows:
        counted = PARAMS.get(name)
        if counted is None:
            model = build_model(load_config(name))
            counted = round(sum(p.numel() for p in model.parameters()) / 1e6, 2)
        assert float(millions) == counted, name


def test_the_model_index_lists_every_config():
    listed = []
    for metafile in yaml.safe_load((ROOT / 'model-index.yml').read_text())['Import']:
        listed += [m['Config'] for m in yaml.safe_load((ROOT / metafile).read_text())['Models']]
    assert sorted(listed) == sorted(str(p.relative_to(ROOT)) for p in CONFIGS)
