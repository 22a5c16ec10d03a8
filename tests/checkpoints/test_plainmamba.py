"""PlainMamba's published layouts load exactly, and everything else raises."""

import pytest
import torch
from support_golden import official_keys
from torch import nn

from mambaout_mm import MambaOut, PlainMamba
from mambaout_mm.backbones.plainmamba import ARCHITECTURES
from mambaout_mm.checkpoints import CheckpointError
from mambaout_mm.ops.torch_versions import RMSNorm
from mambaout_mm.training.checks import check_fits

NUMBERS = dict(depths=(1, 2, 1, 1), dim=8, d_state=2, img_size=32, layers_with_dwconv=(0,))
LAST_LAYERS = (0, 2, 3)  # of the taps before the last


def official_state():
    """The backbone's part of a classification file, random."""
    torch.manual_seed(1)
    backbone = PlainMamba(NUMBERS, pyramid=None, out_indices=(3,))
    return {
        name.replace('norm3.', 'ln1.'): torch.randn_like(x) if x.is_floating_point() else x + 5
        for name, x in backbone.state_dict().items()
    }


def as_classifier(state):
    inside = {f'backbone.{name}': x for name, x in state.items()}
    head = {'head.fc.weight': torch.randn(10, 8), 'head.fc.bias': torch.randn(10)}
    return dict(meta={}, state_dict={**inside, **head})


def as_segmentor(state):
    inside = {f'backbone.{name}': x for name, x in state.items()}
    norms = {
        f'backbone.norm_layer{layer}.{kind}': torch.randn(8)
        for layer in LAST_LAYERS
        for kind in ('weight', 'bias')
    }
    return dict(state_dict={**inside, **norms, 'decode_head.weight': torch.ones(3)})


def load(path, **kwargs):
    init_cfg = dict(type='Pretrained', checkpoint=str(path))
    backbone = PlainMamba(NUMBERS, init_cfg=init_cfg, **kwargs)
    backbone.init_weights()
    return backbone


def assert_loaded(backbone, official):
    own = {k: v for k, v in backbone.state_dict().items() if not k.startswith(('norm', 'fpn'))}
    assert len(own) > 10
    for name, tensor in own.items():
        assert torch.equal(tensor, official[name]), name


@pytest.mark.parametrize('scan', ['corrected', 'published'])
@pytest.mark.parametrize(
    'layout',
    [as_classifier, as_segmentor, lambda s: {**s, 'head.fc.bias': torch.randn(10)}],
    ids=['classifier', 'segmentor', 'bare'],
)
def test_layouts(layout, scan, tmp_path):
    official = official_state()
    torch.save(layout(official), tmp_path / 'w.pth')
    backbone = load(tmp_path / 'w.pth', scan=scan)
    assert_loaded(backbone, official)
    assert torch.equal(backbone.norm3.weight, official['ln1.weight'])


def test_a_published_segmentor_brings_its_output_norms(tmp_path):
    content = as_segmentor(official_state())
    torch.save(content, tmp_path / 'w.pth')
    backbone = load(tmp_path / 'w.pth', out_indices=(0, 1))
    for i in (0, 1):
        expected = content['state_dict'][f'backbone.norm_layer{LAST_LAYERS[i]}.weight']
        assert torch.equal(getattr(backbone, f'norm{i}').weight, expected)


def test_a_published_segmentor_can_be_loaded_whole(tmp_path):
    """As for testing it, resuming, and `load_from`."""
    model = nn.Module()
    model.backbone = PlainMamba(NUMBERS, pyramid=None)
    model.decode_head = RMSNorm(3, eps=1e-6)
    content = as_segmentor(official_state())
    torch.save(content, tmp_path / 'w.pth')
    check_fits(model, str(tmp_path / 'w.pth'))
    model.load_state_dict(content['state_dict'], strict=True)
    assert_loaded(model.backbone, official_state())
    for i, layer in enumerate(LAST_LAYERS):
        expected = content['state_dict'][f'backbone.norm_layer{layer}.bias']
        assert torch.equal(getattr(model.backbone, f'norm{i}').bias, expected)


@pytest.mark.parametrize('out_indices', [(0,), (0, 2)])
def test_layers_that_are_not_built_are_left_in_the_file(out_indices, tmp_path):
    official = official_state()
    torch.save(as_classifier(official), tmp_path / 'w.pth')
    assert_loaded(load(tmp_path / 'w.pth', out_indices=out_indices), official)


@pytest.mark.parametrize(
    ('content', 'words'),
    [
        (
            lambda s: {**s, 'pos_embed': torch.zeros(1, 9, 8)},
            r'it holds a PlainMamba of 5 layers of 8 channels, 9 positions, which does not fit .* '
            r'1 of another shape \(pos_embed \(1, 9, 8\) in the file, \(1, 4, 8\) here\)',
        ),
        (
            lambda s: {k: v for k, v in s.items() if k != 'layers.0.dw.1.running_mean'},
            r'1 keys missing \(layers.0.dw.1.running_mean\)',
        ),
        (
            lambda s: {**s, 'layers.1.dw.0.weight': torch.ones(8, 1, 3, 3)},
            r'1 keys unexpected \(layers.1.dw.0.weight\)',
        ),
        (
            lambda s: {**s, 'layers.5.norm.weight': torch.ones(8)},
            r'a PlainMamba of 6 layers .* keys unexpected \(ln1.weight, ln1.bias, layers.5.norm',
        ),
        (lambda s: MambaOut('femto').state_dict(), 'no PlainMamba backbone in it'),
    ],
    ids=['another image', 'a key missing', 'a key too many', 'more layers', 'another family'],
)
def test_what_does_not_fit_raises(content, words, tmp_path):
    torch.save(content(official_state()), tmp_path / 'w.pth')
    with pytest.raises(CheckpointError, match=words):
        load(tmp_path / 'w.pth')


@pytest.mark.parametrize('variant', ARCHITECTURES)
def test_a_whole_published_key_list_fits(variant):
    _, shapes = official_keys(f'plainmamba_{variant}')
    state = {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}
    with torch.device('meta'):  # no memory for the parameters
        backbone = PlainMamba(variant, pyramid=None)
    converted = backbone.convert_checkpoint(state)
    missing, unexpected = backbone.load_state_dict(converted, strict=False, assign=True)
    assert sorted({name.split('.')[0] for name in missing}) == ['norm0', 'norm1', 'norm2']
    assert unexpected == []
    assert backbone.describe_checkpoint(converted).startswith(f'PlainMamba {variant} (')
