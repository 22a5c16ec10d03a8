"""What can be named on the command line, and what is built from it."""

import re

import pytest
import torch
from support import ROOT

from mambaout_mm.backbones.efficientvmamba import ARCHITECTURES as EFFICIENTVMAMBA
from mambaout_mm.backbones.localvmamba import ARCHITECTURES as LOCALVMAMBA
from mambaout_mm.backbones.mambaout import ARCHITECTURES as MAMBAOUT
from mambaout_mm.backbones.plainmamba import ARCHITECTURES as PLAINMAMBA
from mambaout_mm.backbones.vim import ARCHITECTURES as VIM
from mambaout_mm.backbones.vmamba import ARCHITECTURES as VMAMBA
from mambaout_mm.comparison.catalogue import (
    CONTROL,
    ENTRIES,
    PRESETS,
    Network,
    build_backbone,
    entries_of,
    maps_of,
    stages_of,
    whole_config,
)
from mambaout_mm.comparison.published_results import published_results
from mambaout_mm.errors import UserError


def test_every_published_name_is_in_the_published_results():
    names = set(published_results()['backbone'])
    missing = [entry.name for entry in ENTRIES if entry.published not in names]
    # timm's own MambaOut: its figures are those of MambaOut. Vim's paper has no row of DeiT here.
    mixers = [entry.name for entry in ENTRIES if entry.presets == ('mixers',)]
    timms = [f'MambaOut-{scale} (timm)' for scale in 'TSB']
    deit = ['DeiT-Ti', 'DeiT-S', 'DeiT-B', 'DeiT-Ti (materialised)']
    assert sorted(missing) == sorted([*mixers, *timms, *deit])


def test_mambaout_stands_beside_a_scan_a_convolution_and_attention_in_every_preset():
    mixers = {entry.name: entry.mixer for entry in ENTRIES}
    for name, preset in PRESETS.items():
        if name in ('mixers', 'vim'):  # which ask something else
            continue
        kinds = {'Conv', 'Conv+SSM'} if name == 'mambas' else {'Conv', 'Conv+SSM', 'Attn'}
        assert kinds <= {mixers[name] for name in preset}
        assert preset[0].startswith('MambaOut')


def test_all_holds_every_size_of_the_papers_families():
    archs = {str(entry.backbone.get('arch')) for entry in ENTRIES}
    assert {name for name in MAMBAOUT if not name.endswith('_rw')} <= archs
    assert {name for name in VMAMBA if name.endswith('_v0')} <= archs
    assert {*LOCALVMAMBA, *EFFICIENTVMAMBA, *VIM, *PLAINMAMBA} <= archs
    assert PRESETS['all'] == tuple(entry.name for entry in ENTRIES)


@pytest.mark.parametrize(
    ('names', 'found'),
    [
        (['tiny'], ['MambaOut-T', 'MambaOut-T (timm)', 'VMamba-T', 'ConvNeXt-T', 'Swin-T']),
        (['mambaout-t', 'ViT-S/16'], ['MambaOut-T', 'ViT-S/16']),
        (['VMamba:small_s1l20'], ['VMamba:small_s1l20']),
        (['VMamba:tiny_s1l8'], ['VMamba-T']),
        (
            ['Vim:tiny', 'LocalVim:tiny_middle_cls_token'],
            ['Vim-Ti', 'LocalVim:tiny_middle_cls_token'],
        ),
        (['TimmPyramid:resnet18'], ['TimmPyramid:resnet18']),
        (['mmdet.ResNet:depth=18'], ['mmdet.ResNet:depth=18']),
        (
            [str(ROOT / 'configs' / 'detection' / 'maskrcnn_mambaout_femto.py')],
            ['maskrcnn_mambaout_femto'],
        ),
    ],
)
def test_names_in_every_form(names, found):
    assert [entry.name for entry in entries_of(names)] == found


@pytest.mark.parametrize(
    ('names', 'message'),
    [
        (['MambaOut-X'], "'MambaOut-X' is no backbone to compare; did you mean"),
        (['Nothing:small'], "'Nothing:small' is no backbone to compare"),
        (['no_such.py'], "there is no config 'no_such.py'"),
        (['...:x'], 'is no backbone to compare'),
        (['mmdet.ResNet:type=5,depth=50'], 'must have names, and none is type'),
        (['mmdet.ResNet:**{}, depth=50'], 'must have names, and none is type|no Python literals'),
        (['mmdet.ResNet:depth=1) or dict(a=2'], 'are no Python literals: write NAME=VALUE'),
        ([f'mmdet.ResNet:depth={"-" * 50_000}1'], 'are no Python literals: they are nested'),
        (['mmdet.ResNet:depth=50 50'], "the arguments of 'mmdet.ResNet:depth=50 50' are no Python"),
        (['tiny', 'MambaOut-T'], 'MambaOut-T is there twice'),
    ],
)
def test_names_that_do_not_fit(names, message):
    with pytest.raises(UserError, match=message):
        entries_of(names)


def test_a_config_without_a_backbone(tmp_path):
    path = tmp_path / 'empty.py'
    path.write_text('a = 1\n')
    with pytest.raises(UserError, match='has no model.backbone to compare'):
        entries_of([str(path)])


def test_a_variant_that_does_not_exist_is_refused_when_built():
    (entry,) = entries_of(['MambaOut:huge'])
    with pytest.raises(UserError, match='MambaOut:huge cannot be built.*huge'):
        build_backbone(entry)


def test_building_twice_gives_the_same_weights_and_no_drop_path():
    entry = Network('a', '', dict(type='mambaout_mm.MambaOut', arch='femto', drop_path_rate=0.5))
    one, two = build_backbone(entry), build_backbone(entry)
    image = torch.rand(1, 3, 32, 32)
    for a, b in zip(one.train()(image), two.eval()(image), strict=True):
        torch.testing.assert_close(a, b)
    assert entry.backbone['drop_path_rate'] == 0.5


def test_the_optimised_network_stands_beside_the_stock_one_which_computes_the_same():
    for preset in PRESETS.values():
        for name in preset:
            scale = re.fullmatch('MambaOut-([TSB])', name)
            assert not scale or f'{name} (timm)' in preset
    ours, stock = map(build_backbone, entries_of(['MambaOut-T', 'MambaOut-T (timm)']))
    weights = {}
    for name, value in ours.state_dict().items():
        name = name.replace('downsample_layers.0', 'net.stem')
        name = re.sub(r'^downsample_layers\.(\d)', r'net.stages_\1.downsample', name)
        weights[re.sub(r'^stages\.(\d)', r'net.stages_\1.blocks', name)] = value
    stock.load_state_dict(weights)
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        for a, b in zip(ours(image), stock(image), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_maps_of_a_backbone_that_does_not_say():
    (entry,) = entries_of(['mmdet.ResNet:depth=18, frozen_stages=1'])
    model = build_backbone(entry)
    assert maps_of(model) == ((64, 128, 256, 512), (4, 8, 16, 32))
    model.train()
    assert all(p.requires_grad for p in model.parameters())  # none is frozen
    with pytest.raises(UserError, match='takes no checkpoint'):
        build_backbone(entry, 'weights.pth')


def test_configs_of_the_same_name_are_told_apart(tmp_path):
    paths = [tmp_path / folder / 'mine.py' for folder in 'ab']
    for path in paths:
        path.parent.mkdir()
        path.write_text("model = dict(backbone=dict(type='mambaout_mm.MambaOut', arch='femto'))\n")
    names = [entry.name for entry in entries_of(list(map(str, paths)))]
    assert names == [str(path.with_suffix('')) for path in paths]


@pytest.mark.parametrize(
    ('strides', 'stages'),
    [
        ((4, 8, 16, 32), [1, 2, 3, 4]),
        ((8, 16, 32), [2, 3, 4]),
        ((16,), [3]),
        ((4, 8, 8, 8), [1, 2, 3, 4]),
    ],
)
def test_stages_are_those_of_the_strides(strides, stages):
    assert stages_of(strides) == stages


def test_the_control_is_one_map_at_stride_16_for_any_image():
    model = build_backbone(CONTROL)
    assert maps_of(model) == ((384,), (16,))
    with torch.no_grad():
        (out,) = model(torch.rand(1, 3, 40, 65))
    assert out.shape == (1, 384, 3, 5)


def test_heads_take_the_widths_of_the_maps():
    cfg = whole_config('UperNet', (8, 16, 24, 32))
    assert cfg.model.decode_head.in_channels == [8, 16, 24, 32]
    assert cfg.model.auxiliary_head.in_channels == 24


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        (b'\x80\xff', 'cannot be read as a config: UnicodeDecodeError'),
        (b'1 / 0', 'line 1: ZeroDivisionError'),
        (b'import sys; sys.exit(4)', 'SystemExit: 4'),
        (b"_base_ = 'c.py'", '_base_ leads back to itself'),
        (b"default_scope = 5\nmodel = dict(backbone=dict(type='A'))", 'default_scope must be'),
        (b"model = dict(backbone={1: 2, 'type': 'mmdet.ResNet'})", 'is no name'),
        (b'model = dict(backbone=[1])', 'has no model.backbone'),
    ],
    ids=['binary', 'raises', 'exits', 'itself', 'scope', 'key', 'list'],
)
def test_config_files_without_a_backbone(text, words, tmp_path):
    (tmp_path / 'c.py').write_bytes(text)
    with pytest.raises(UserError, match=words):
        entries_of([str(tmp_path / 'c.py')])
