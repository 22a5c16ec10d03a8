"""timm's models against mmdet's Swin, torchvision's ConvNeXt, and the backbone's contract."""

import re

import numpy as np
import pytest
import timm
import torch
import torchvision
from mmdet.engine.optimizers.layer_decay_optimizer_constructor import (
    get_layer_id_for_convnext,
    get_stage_id_for_convnext,
)
from mmdet.models.backbones.swin import SwinTransformer, swin_converter
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import DefaultScope
from safetensors.torch import save_file
from timm.layers import DropPath

from mambaout_mm import TimmPyramid
from mambaout_mm.checkpoints import CheckpointError

SMALL = 'convnext_atto'
SWIN = 'swin_tiny_patch4_window7_224'
# A stage with `blocks`, an nn.Sequential of blocks, EfficientNet's own chain, channels-last maps.
FAMILIES = (SMALL, 'resnet18', 'mobilenetv3_small_050', 'mambaout_femto')


def relative_error(value, expected):
    return (value - expected).abs().max().item() / expected.abs().max().item()


def randomised(state):
    """Biases, norms and LayerScale would hide errors at their initial 0, 1 and 1e-6."""
    torch.manual_seed(1)
    return {
        name: (t + 0.3 * t.abs().mean().clamp(min=0.3) * torch.randn_like(t))
        if t.is_floating_point() and 'running' not in name
        else t
        for name, t in state.items()
    }


@pytest.fixture(scope='module')
def timm_state():
    """Random weights of a small classifier under timm's names."""
    return randomised(timm.create_model(SMALL).state_dict())


@pytest.fixture(scope='module')
def microsoft_swin():
    """Random weights in the layout of Microsoft's files, written independently of timm's map."""
    state = {}
    for name, tensor in randomised(timm.create_model(SWIN).state_dict()).items():
        parts = name.split('.')
        if 'downsample' in parts:  # theirs ends a stage, timm's begins the next
            parts[1] = str(int(parts[1]) - 1)
        state['.'.join(parts).replace('head.fc', 'head')] = tensor
        if name.endswith('attn.qkv.weight'):
            buffer = name.replace('attn.qkv.weight', 'attn.relative_position_index')
            state[buffer] = torch.zeros(49, 49, dtype=torch.long)
    state['layers.0.blocks.1.attn_mask'] = torch.zeros(64, 49, 49)
    return state


@pytest.fixture(scope='module')
def swins(microsoft_swin, tmp_path_factory):
    """Ours and mmdet's with the same weights and output norms."""
    path = tmp_path_factory.mktemp('swin') / 'swin_tiny_patch4_window7_224.pth'
    torch.save(dict(model=microsoft_swin), path)
    ours = TimmPyramid(SWIN).eval()
    ours.load_published(str(path))
    theirs = SwinTransformer(drop_path_rate=0.0)
    theirs.eval()
    buffers = ('relative_position_index', 'attn_mask')
    weights = {k: v for k, v in microsoft_swin.items() if not k.endswith(buffers)}
    converted = swin_converter({k: v for k, v in weights.items() if not k.startswith('norm.')})
    converted = {k.removeprefix('backbone.'): v for k, v in converted.items()}
    for i in range(4):
        norm = getattr(ours, f'norm{i}')
        norm.load_state_dict(randomised(norm.state_dict()))
        converted |= {f'norm{i}.{k}': v for k, v in norm.state_dict().items()}
    wrong = theirs.load_state_dict(converted, strict=False)
    assert all(key.endswith(buffers) for key in wrong.missing_keys)
    assert wrong.unexpected_keys == []
    return ours, theirs


# One window in the last stage, none that fits, sizes that 32 or 4 does not divide.
@pytest.mark.parametrize('size', [(224, 224), (256, 320), (200, 304), (201, 303), (33, 63)])
def test_swin_agrees_with_mmdets(swins, size):
    image = torch.randn(2, 3, *size)
    with torch.no_grad():
        outs, expected = (model(image) for model in swins)
    for i in range(4):
        assert outs[i].shape == expected[i].shape
        assert relative_error(outs[i], expected[i]) < 1e-5, f'stage {i}'
        assert getattr(swins[0], f'norm{i}').eps == getattr(swins[1], f'norm{i}').eps == 1e-5
    if size == (33, 63):
        assert [tuple(out.shape[2:]) for out in outs] == [(9, 16), (5, 8), (3, 4), (2, 2)]


def facebook_convnext(model):
    """torchvision's weights in the layout of Facebook's files."""
    names = {'block.0': 'dwconv', 'block.2': 'norm', 'block.3': 'pwconv1', 'block.5': 'pwconv2'}
    state = {}
    for name, tensor in model.features.state_dict().items():
        part, rest = name.split('.', 1)
        stage = int(part) // 2
        if int(part) % 2 == 0:
            state[f'downsample_layers.{stage}.{rest}'] = tensor
            continue
        block, rest = rest.split('.', 1)
        if rest == 'layer_scale':
            rest, tensor = 'gamma', tensor.flatten()
        for theirs, official in names.items():
            rest = rest.replace(theirs, official)
        state[f'stages.{stage}.{block}.{rest}'] = tensor
    state.update({'norm.weight': torch.ones(768), 'head.weight': torch.ones(1000, 768)})
    return state


def test_convnext_agrees_with_torchvisions_and_rounds_down(tmp_path):
    theirs = torchvision.models.convnext_tiny().eval()
    theirs.load_state_dict(randomised(theirs.state_dict()))
    torch.save(dict(model=facebook_convnext(theirs)), tmp_path / 'convnext_tiny_1k_224_ema.pth')
    ours = TimmPyramid('convnext_tiny', output_norm=False).eval()
    ours.load_published(str(tmp_path / 'convnext_tiny_1k_224_ema.pth'))
    image = torch.randn(2, 3, 97, 75)
    with torch.no_grad():
        outs = ours(image)
        for i, out in enumerate(outs):
            image = theirs.features[2 * i + 1](theirs.features[2 * i](image))
            assert relative_error(out, image) < 1e-5, f'stage {i}'
    assert [tuple(out.shape[2:]) for out in outs] == [(24, 18), (12, 9), (6, 4), (3, 2)]


def facebook_shapes(depths, dims):
    """Keys and shapes of Facebook's files, from models/convnext.py of facebookresearch/ConvNeXt."""
    shapes = {
        'downsample_layers.0.0.weight': (dims[0], 3, 4, 4),
        'downsample_layers.0.0.bias': (dims[0],),
        'norm.weight': (dims[3],),
        'norm.bias': (dims[3],),
        'head.weight': (1000, dims[3]),
        'head.bias': (1000,),
    }
    norms = ['downsample_layers.0.1']
    for i, (depth, dim) in enumerate(zip(depths, dims, strict=True)):
        if i > 0:
            norms.append(f'downsample_layers.{i}.0')
            shapes[f'downsample_layers.{i}.1.weight'] = (dim, dims[i - 1], 2, 2)
            shapes[f'downsample_layers.{i}.1.bias'] = (dim,)
        for j in range(depth):
            block = f'stages.{i}.{j}'
            norms.append(f'{block}.norm')
            shapes[f'{block}.gamma'] = (dim,)
            shapes[f'{block}.dwconv.weight'] = (dim, 1, 7, 7)
            shapes[f'{block}.dwconv.bias'] = (dim,)
            shapes[f'{block}.pwconv1.weight'] = (4 * dim, dim)
            shapes[f'{block}.pwconv1.bias'] = (4 * dim,)
            shapes[f'{block}.pwconv2.weight'] = (dim, 4 * dim)
            shapes[f'{block}.pwconv2.bias'] = (dim,)
    # A norm before a downsampling has the width of the stage before it.
    widths = {norm: dims[int(norm.split('.')[1]) - norm.endswith('.0')] for norm in norms}
    return shapes | {
        f'{norm}.{name}': (width,) for norm, width in widths.items() for name in ('weight', 'bias')
    }


@pytest.mark.parametrize(
    ('size', 'depths', 'dims', 'millions'),  # of parameters, as timm counts them
    [
        ('tiny', (3, 3, 9, 3), (96, 192, 384, 768), 28.6),
        ('small', (3, 3, 27, 3), (96, 192, 384, 768), 50.2),
        ('base', (3, 3, 27, 3), (128, 256, 512, 1024), 88.6),
    ],
)
def test_convnexts_file_without_the_average_fits(
    size, depths, dims, millions, tmp_path, monkeypatch
):
    """By its name in the catalogue, with every key of the file; only output norms are fresh."""
    shapes = facebook_shapes(depths, dims)
    state = {name: torch.tensor(float(i)).expand(s) for i, (name, s) in enumerate(shapes.items())}
    assert sum(t.numel() for t in state.values()) / 1e6 == pytest.approx(millions, abs=0.05)
    addresses = []

    def download(url, path, checksum):
        addresses.append(url)
        torch.save(dict(model=state), path)

    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.setattr(torch.hub, 'download_url_to_file', download)
    backbone = TimmPyramid(f'convnext_{size}')
    backbone.load_published(f'convnext://{size}')
    assert addresses == [f'https://dl.fbaipublicfiles.com/convnext/convnext_{size}_1k_224.pth']
    own = {k: v for k, v in backbone.state_dict().items() if k.startswith('net.')}
    numbers = sorted(int(tensor.flatten()[0]) for tensor in own.values())
    left_out = [i for i, name in enumerate(shapes) if name.startswith(('norm.', 'head.'))]
    assert numbers == [i for i in range(len(shapes)) if i not in left_out]


@pytest.mark.parametrize(
    'name', [*FAMILIES, 'pvt_v2_b0', 'regnety_002', 'poolformer_s12', 'focalnet_tiny_srf']
)
def test_maps_are_timms_as_nchw(name):
    theirs = timm.create_model(name, features_only=True).eval()
    backbone = TimmPyramid(name, output_norm=False, out_indices=(0, 2, 3)).eval()
    backbone.load_state_dict(backbone.convert_checkpoint(theirs.state_dict()), strict=True)
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        outs, expected = backbone(image), theirs(image)
    assert isinstance(outs, tuple)
    expected = dict(zip(theirs.feature_info.reduction(), expected, strict=True))
    assert backbone.out_strides == (4, 16, 32)
    for out, channels, stride in zip(
        outs, backbone.out_channels, backbone.out_strides, strict=True
    ):
        assert out.shape == (1, channels, 64 // stride, 96 // stride)
        nhwc = name == 'mambaout_femto'
        assert torch.equal(out, expected[stride].permute(0, 3, 1, 2) if nhwc else expected[stride])


@pytest.mark.parametrize('output_norm', [True, False])
@pytest.mark.parametrize('out_indices', [(0, 1, 2, 3), (1, 2, 3), (0, 2), (0,)])
@pytest.mark.parametrize('name', FAMILIES)
def test_every_parameter_receives_a_gradient(name, out_indices, output_norm):
    """An unused one stops DistributedDataParallel."""
    backbone = TimmPyramid(name, out_indices=out_indices, output_norm=output_norm)
    outs = backbone(torch.randn(2, 3, 64, 64))
    assert [o.shape[1] for o in outs] == list(backbone.out_channels)
    sum((out * torch.randn_like(out)).sum() for out in outs).backward()
    assert [n for n, p in backbone.named_parameters() if p.grad is None] == []
    norms = {n.split('.')[0] for n, _ in backbone.named_parameters() if n.startswith('norm')}
    assert norms == ({f'norm{i}' for i in out_indices} if output_norm else set())


def test_every_parameter_of_swin_receives_a_gradient():
    backbone = TimmPyramid(SWIN, out_indices=(0, 1))
    sum(
        (out * torch.randn_like(out)).sum() for out in backbone(torch.randn(1, 3, 64, 64))
    ).backward()
    assert [n for n, p in backbone.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize('frozen_stages', [-1, 0, 1, 4])
@pytest.mark.parametrize('name', [SMALL, 'resnet18'])
def test_frozen_stages(name, frozen_stages):
    backbone = TimmPyramid(name, frozen_stages=frozen_stages)
    assert backbone.train() is backbone
    stems = {SMALL: ['stem_0', 'stem_1'], 'resnet18': ['conv1', 'bn1', 'act1', 'maxpool']}
    stages = ['stages_0', 'stages_1', 'stages_2', 'stages_3']
    if name == 'resnet18':
        stages = ['layer1', 'layer2', 'layer3', 'layer4']
    frozen = stems[name] if frozen_stages >= 0 else []
    frozen = [*frozen, *stages[: max(frozen_stages, 0)]]
    names = (*(f'net.{n}.' for n in frozen), *(f'norm{i}.' for i in range(frozen_stages)))
    for param_name, param in backbone.named_parameters():
        assert param.requires_grad != param_name.startswith(names), param_name
    for module_name, module in backbone.net.items():
        assert module.training == (module_name not in frozen), module_name
    assert not any(m.training for m in backbone.eval().modules())


@pytest.mark.parametrize('name', [SMALL, 'resnet18', 'mambaout_femto'])
def test_checkpointing_gives_the_same_gradients_and_keeps_less(name):
    plain, saving = TimmPyramid(name), TimmPyramid(name, with_cp=True)
    saving.load_state_dict(plain.state_dict())
    image = torch.randn(1, 3, 64, 64)
    kept = []
    for backbone in (plain, saving):
        sizes = []

        def pack(tensor, sizes=sizes):
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            sum(out.square().sum() for out in backbone(image)).backward()
        kept.append(sum(sizes))
    for (param_name, a), b in zip(plain.named_parameters(), saving.parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, rtol=1e-4, atol=1e-4), param_name
    assert kept[1] < 0.6 * kept[0]


@pytest.mark.parametrize('name', ['convnext_tiny', SWIN])
def test_drop_path_rises_linearly_over_all_blocks(name):
    backbone = TimmPyramid(name, drop_path_rate=0.33)
    stages = [backbone.net[part[-1]].blocks for part in backbone.parts[1:]]
    attribute = 'drop_path' if name == 'convnext_tiny' else 'drop_path1'
    rates = [getattr(getattr(b, attribute), 'drop_prob', 0.0) for blocks in stages for b in blocks]
    assert rates == pytest.approx(np.linspace(0, 0.33, sum(backbone.depths)), abs=1e-6)
    assert not any(isinstance(m, DropPath) for m in TimmPyramid(name).modules())


@pytest.mark.parametrize(('name', 'last'), [('convnext_tiny', 6), ('convnext_small', 12)])
def test_layer_depth_of_convnext_is_mmdets(name, last):
    backbone = TimmPyramid(name)
    for own, _ in backbone.named_parameters():
        official = own.removeprefix('net.').replace('stem_', 'downsample_layers.0.')
        official = re.sub(r'^stages_(\d)\.downsample', r'downsample_layers.\1', official)
        official = re.sub(r'^stages_(\d)\.blocks', r'stages.\1', official)
        expected = get_layer_id_for_convnext(f'backbone.{official}', last)
        depth = backbone.get_layer_depth(f'backbone.{own}', 'backbone.')
        assert depth == (expected, last + 2), own
        stage = get_stage_id_for_convnext(f'backbone.{official}', 6)
        depth = backbone.get_layer_depth(f'backbone.{own}', 'backbone.', stage_wise=True)
        assert depth == (stage, 6), own
    assert backbone.get_layer_depth('neck.net.stages_0.x', 'backbone.')[0] == last + 1


def test_layer_depth_of_other_chains():
    swin = TimmPyramid(SWIN)
    assert swin.get_layer_depth('net.patch_embed.proj.weight') == (0, 7)
    assert swin.get_layer_depth('net.layers_2.downsample.norm.bias') == (3, 7)
    assert swin.get_layer_depth('net.layers_2.blocks.5.mlp.fc1.weight') == (4, 7)
    assert swin.get_layer_depth('net.layers_3.blocks.1.norm1.weight') == (5, 7)
    mobile = TimmPyramid('mobilenetv3_small_050')  # two modules of timm's end at stride 16
    assert mobile.parts[3] == ['blocks_2', 'blocks_3']
    assert mobile.depths[2] == 5
    assert mobile.get_layer_depth('net.blocks_2.0.conv_pw.weight')[0] == 3
    assert mobile.get_layer_depth('net.blocks_3.0.conv_pw.weight')[0] == 4


@pytest.mark.parametrize('name', FAMILIES)
def test_maps_are_contiguous_unless_channels_last_is_asked_for(name):
    default, as_computed = TimmPyramid(name), TimmPyramid(name, channels_last=True)
    as_computed.load_state_dict(default.state_dict())
    image = torch.randn(2, 3, 64, 96)
    for out, other in zip(default.eval()(image), as_computed.eval()(image), strict=True):
        assert out.is_contiguous()
        assert other.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(out, other)


def own_state(state):
    """The state of a backbone with these weights, with output norms, as a runner saves it."""
    backbone = TimmPyramid(SMALL)
    backbone.load_state_dict(backbone.convert_checkpoint(state), strict=False)
    return {f'backbone.{k}': v for k, v in backbone.state_dict().items()}


LAYOUTS = {
    'timm': lambda s: s,
    'without classifier': lambda s: {k: v for k, v in s.items() if not k.startswith('head.')},
    'features_only': lambda s: {re.sub(r'^(stem|stages)\.', r'\1_', k): v for k, v in s.items()},
    'state_dict': lambda s: dict(state_dict=s, epoch=3),
    'ddp': lambda s: {f'module.{k}': v for k, v in s.items()},
    'detector': lambda s: dict(state_dict={**own_state(s), 'neck.conv.weight': torch.ones(3)}),
}


def assert_loaded(backbone, state):
    own = {k: v for k, v in backbone.state_dict().items() if k.startswith('net.')}
    assert len(own) > 10
    for name, tensor in own.items():
        name = re.sub(r'^net\.(stem|stages)_', r'\1.', name)
        assert torch.equal(tensor, state[name]), name


@pytest.mark.parametrize('out_indices', [(0, 1, 2, 3), (0, 1)])
@pytest.mark.parametrize('layout', LAYOUTS)
def test_layouts(layout, out_indices, timm_state, tmp_path):
    torch.save(LAYOUTS[layout](timm_state), tmp_path / 'w.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'w.pth'))
    backbone = TimmPyramid(SMALL, out_indices=out_indices, init_cfg=init_cfg)
    backbone.init_weights()
    assert_loaded(backbone, timm_state)


def test_safetensors_and_the_hub(timm_state, tmp_path, monkeypatch):
    save_file(timm_state, tmp_path / 'model.safetensors')
    hub = 'timm.models._builder.load_state_dict_from_hf'
    monkeypatch.setattr(hub, lambda *args, **kwargs: dict(timm_state))
    for checkpoint in (str(tmp_path / 'model.safetensors'), f'timm://{SMALL}.d2_in1k'):
        backbone = TimmPyramid(SMALL)
        backbone.load_published(checkpoint)
        assert_loaded(backbone, timm_state)


WRONG = {
    'another size': (
        lambda s: timm.create_model('convnext_femto').state_dict(),
        r"something other than timm's convnext_atto.*depths \(2, 2, 6, 2\).*of another shape",
    ),
    'deeper': (
        lambda s: {**s, 'stages.2.blocks.6.gamma': torch.ones(160)},
        r'1 keys unexpected \(net.stages_2.blocks.6.gamma\)',
    ),
    'a key missing': (
        lambda s: {k: v for k, v in s.items() if k != 'stages.2.blocks.1.gamma'},
        r'1 keys missing \(net.stages_2.blocks.1.gamma\)',
    ),
    'another shape': (
        lambda s: {**s, 'stem.0.weight': torch.ones(40, 3, 7, 7)},
        r'net.stem_0.weight \(40, 3, 7, 7\) in the file, \(40, 3, 4, 4\) here',
    ),
    'another family': (
        lambda s: timm.create_model('resnet10t').state_dict(),
        r'86 keys are unknown \(conv1.0.weight, .*timm cannot convert it',
    ),
    'only a head': (lambda s: {'head.fc.weight': torch.ones(2, 2)}, 'no convnext_atto in it'),
}


@pytest.mark.parametrize('case', WRONG)
def test_what_does_not_fit_raises_and_changes_nothing(case, timm_state, tmp_path):
    content, words = WRONG[case]
    torch.save(content(timm_state), tmp_path / 'w.pth')
    backbone = TimmPyramid(SMALL)
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    with pytest.raises(CheckpointError, match=words):
        backbone.load_published(str(tmp_path / 'w.pth'))
    for name, tensor in backbone.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize(
    'names',
    [(), ('net.stem_0.weight',), ('norm0.weight', 'norm0.bias'), ('net.stem_0.weight', 'other')],
)
@pytest.mark.parametrize('prefix', ['', 'backbone.'])
def test_a_part_of_its_own_state_is_not_converted(names, prefix, monkeypatch):
    """It would take a whole classifier of timm's, for the names in it."""
    backbone = TimmPyramid(SMALL)
    own = backbone.state_dict()
    part = {f'{prefix}{n}': torch.full_like(own.get(n, torch.ones(1)), 3) for n in names}
    model = torch.nn.ModuleDict(dict(backbone=backbone)) if prefix else backbone
    monkeypatch.setattr(timm, 'create_model', None)
    missing, unexpected = model.load_state_dict({**part, **dict(neck=torch.ones(1))}, strict=False)
    assert {n.removeprefix(prefix) for n in unexpected} == {'neck', *names} - own.keys()
    assert len(missing) == len(own) - len(names) + ('other' in names)
    for name in own.keys() & set(names):
        assert backbone.state_dict()[name].eq(3).all()


@pytest.mark.parametrize('layout', ['timm', 'microsoft'])
def test_what_is_recognised_and_does_not_convert_raises_in_every_load(layout, microsoft_swin):
    if layout == 'timm':
        state = timm.create_model('swin_small_patch4_window7_224').state_dict()
    else:
        table = 'layers.0.blocks.0.attn.relative_position_bias_table'
        state = {**microsoft_swin, table: torch.ones(9, 3)}
    with pytest.raises(CheckpointError, match='cannot convert it|windows have another size'):
        TimmPyramid(SWIN).load_state_dict(state, strict=False)


def test_what_is_not_recognised_is_left_to_the_loader():
    state = timm.create_model('resnet10t').state_dict()
    _, unexpected = TimmPyramid(SMALL).load_state_dict(state, strict=False)
    assert set(unexpected) == set(state)


@pytest.mark.parametrize('layout', ['timm', 'microsoft'])
def test_a_swin_of_another_window_is_refused(layout, microsoft_swin, tmp_path):
    """timm would interpolate its position biases without a word."""
    table = 'layers.0.blocks.0.attn.relative_position_bias_table'
    state = timm.create_model(SWIN).state_dict() if layout == 'timm' else microsoft_swin
    torch.save({**state, table: torch.ones(23 * 23, 3)}, tmp_path / 'w.pth')
    with pytest.raises(
        CheckpointError, match=r'bias_table \(529, 3\) in the file, \(169, 3\) here'
    ):
        TimmPyramid(SWIN).load_published(str(tmp_path / 'w.pth'))


@pytest.mark.parametrize('layout', ['timm', 'microsoft'])
def test_a_deeper_swin_is_refused(layout, microsoft_swin, tmp_path):
    if layout == 'timm':
        state = timm.create_model('swin_small_patch4_window7_224').state_dict()
    else:
        table = 'layers.2.blocks.6.attn.relative_position_bias_table'
        state = {**microsoft_swin, table: torch.ones(2)}
    torch.save(dict(model=state), tmp_path / 'w.pth')
    words = "something other than timm's swin_tiny.*cannot convert it .*has no attribute `6`"
    with pytest.raises(CheckpointError, match=words):
        TimmPyramid(SWIN).load_published(str(tmp_path / 'w.pth'))


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg', 'mmengine'])
@pytest.mark.parametrize('type_', ['TimmPyramid', 'mambaout_mm.TimmPyramid'])
def test_builds_by_name_from_any_scope(scope, type_):
    with DefaultScope.overwrite_default_scope(scope):
        backbone = MMENGINE_MODELS.build(dict(type=type_, model_name=SMALL))
    assert type(backbone) is TimmPyramid


@pytest.mark.parametrize(
    ('kwargs', 'words'),
    [
        (dict(model_name='convnext_tinny'), "no model 'convnext_tinny'; did you mean convnext_tin"),
        (dict(model_name='swin_tiny'), 'did you mean swin_tiny_patch4_window7_224'),
        (dict(model_name='convnext_tiny.fb_in1k'), 'did you mean convnext_tiny'),
        (dict(model_name='vit_tiny_patch16_224'), 'maps at strides 16; .* need 4, 8, 16 and 32'),
        (dict(model_name='efficientvit_m0'), 'maps at strides 16, 32, 64; '),
        (dict(model_name='gcvit_xxtiny'), 'binds gcvit_xxtiny to images of 224x224'),
        (dict(model_name='hrnet_w18_small'), 'by HighResolutionNetFeatures, not as a chain'),
        (dict(model_name='vgg11', drop_path_rate=0.1), 'vgg11 has no stochastic depth'),
        (dict(model_name=SMALL, out_indices=(0, 4)), r'out of 0, 1, 2, 3; got \(0, 4\)'),
        (dict(model_name=SMALL, frozen_stages=5), 'frozen_stages must be between -1'),
    ],
)
def test_bad_arguments_are_named(kwargs, words):
    with pytest.raises(ValueError, match=words):
        TimmPyramid(**kwargs)


def test_a_model_without_features_is_refused(monkeypatch):
    """timm 1.0.31 has none left; older ones raise so."""

    def fail(*args, **kwargs):
        raise RuntimeError('features_only not implemented for these models.')

    monkeypatch.setattr(timm, 'create_model', fail)
    with pytest.raises(ValueError, match=f'cannot give the features of {SMALL}: features_only not'):
        TimmPyramid(SMALL)


def test_models_without_stochastic_depth_are_taken():
    assert TimmPyramid('vgg11', out_indices=(0,)).out_channels == (256,)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
@pytest.mark.parametrize('name', [SMALL, SWIN])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_mixed_precision_on_cuda(name, dtype):
    backbone = TimmPyramid(name, with_cp=True, drop_path_rate=0.1).cuda()
    image = torch.randn(2, 3, 97, 160, device='cuda')
    with torch.autocast('cuda', dtype):
        loss = sum(out.float().square().mean() for out in backbone(image))
    loss.backward()
    for param_name, param in backbone.named_parameters():
        assert torch.isfinite(param.grad).all(), param_name
