"""VMamba's published layouts load exactly, and everything else raises."""

import json
from pathlib import Path

import pytest
import torch
from mmengine.runner import load_checkpoint
from support_vss import Detector, as_detector, assert_loaded, legacy, load, official_state

from mambaout_mm import MambaOut, VMamba
from mambaout_mm.backbones.vmamba import resolve_arch
from mambaout_mm.checkpoints import CheckpointError
from mambaout_mm.training.checks import check_fits

KEYS = Path(__file__).parents[1] / 'data' / 'keys'
V2 = dict(depths=(1, 1, 2, 1), dims=(8, 16, 24, 32))
V0 = dict(V2, version='v0', d_state=2)


def as_convolutions(state):
    return {
        k: v[..., None, None] if k.endswith(('_proj.weight', 'fc1.weight', 'fc2.weight')) else v
        for k, v in state.items()
    }


@pytest.mark.parametrize(
    ('arch', 'layout'),
    [
        (V2, lambda s: dict(model=s, model_ema={})),
        (V0, lambda s: dict(model=s)),
        (V2, lambda s: dict(model=as_convolutions(s))),
        (V0, lambda s: dict(model=legacy(s))),
        (V2, lambda s: as_detector(s, V2['dims'])),
    ],
    ids=['v2', 'v0', '1x1 convolutions', 'legacy names', 'detector'],
)
def test_layouts(arch, layout, tmp_path):
    official = official_state(VMamba, arch)
    torch.save(layout(official), tmp_path / 'w.pth')
    assert_loaded(load(VMamba, arch, tmp_path / 'w.pth'), official)


def test_a_published_detector_brings_its_output_norms(tmp_path):
    content = as_detector(official_state(VMamba, V2), V2['dims'])
    torch.save(content, tmp_path / 'w.pth')
    backbone = load(VMamba, V2, tmp_path / 'w.pth', out_indices=(0, 2))
    for i in (0, 2):
        expected = content['state_dict'][f'backbone.outnorm{i}.weight']
        assert torch.equal(getattr(backbone, f'norm{i}').weight, expected)


@pytest.mark.parametrize(
    ('arch', 'names'), [(V2, as_convolutions), (V0, legacy)], ids=['v2', 'v0, legacy names']
)
@pytest.mark.parametrize('loader', ['torch', 'mmengine'])
def test_a_published_detector_can_be_loaded_whole(arch, names, loader, tmp_path):
    """As for testing it, resuming, and `load_from`."""
    content = as_detector(names(official_state(VMamba, arch)), arch['dims'])
    content['state_dict']['neck.weight'] = torch.ones(3, 1)
    torch.save(content, tmp_path / 'w.pth')
    model = Detector(VMamba, arch)
    check_fits(model, str(tmp_path / 'w.pth'))
    if loader == 'torch':
        model.load_state_dict(content['state_dict'], strict=True)
    else:
        load_checkpoint(model, str(tmp_path / 'w.pth'), strict=True)
    for i in range(4):
        expected = content['state_dict'][f'backbone.outnorm{i}.weight']
        assert torch.equal(getattr(model.backbone, f'norm{i}').weight, expected)
    assert_loaded(model.backbone, official_state(VMamba, arch))


@pytest.mark.parametrize('key', ['model', 'model_ema'])
def test_the_file_has_both_and_key_chooses(key, tmp_path):
    states = dict(model=official_state(VMamba, V2, 1), model_ema=official_state(VMamba, V2, 2))
    torch.save(states, tmp_path / 'w.pth')
    assert_loaded(load(VMamba, V2, tmp_path / 'w.pth', key), states[key])


@pytest.mark.parametrize('out_indices', [(0,), (0, 2)])
def test_stages_that_are_not_built_are_left_in_the_file(out_indices, tmp_path):
    official = official_state(VMamba, V2)
    torch.save(official, tmp_path / 'w.pth')
    assert_loaded(load(VMamba, V2, tmp_path / 'w.pth', out_indices=out_indices), official)


@pytest.mark.parametrize(
    ('content', 'words'),
    [
        (
            lambda s: VMamba('tiny_s1l8').state_dict(),
            r'it holds VMamba tiny_s1l8 \(depths \(2, 2, 8, 2\), dims \(96, 192, 384, 768\), 96 '
            r'channels and 1 states in the first scan, with MLP\), which does not fit',
        ),
        (
            lambda s: {k: v for k, v in s.items() if not k.endswith('blocks.1.op.A_logs')},
            r'1 keys missing \(layers.2.blocks.1.op.A_logs\)',
        ),
        (
            lambda s: {**s, 'layers.0.blocks.0.op.conv2d.bias': torch.ones(8)},
            r'1 keys unexpected \(layers.0.blocks.0.op.conv2d.bias\)',
        ),
        (lambda s: MambaOut('femto').state_dict(), 'no VMamba backbone in it'),
    ],
    ids=['another variant', 'a key missing', 'a key too many', 'another family'],
)
def test_what_does_not_fit_raises(content, words, tmp_path):
    torch.save(content(official_state(VMamba, V2)), tmp_path / 'w.pth')
    with pytest.raises(CheckpointError, match=words):
        load(VMamba, V2, tmp_path / 'w.pth')


@pytest.mark.parametrize('variant', ['tiny_s1l8', 'base_s2l15', 'small_v0'])
def test_a_whole_published_key_list_fits(variant, tmp_path):
    stem = f'v0_{variant[:-3]}' if variant.endswith('_v0') else variant
    keys = json.loads((KEYS / f'vmamba_{stem}.json').read_text())['keys']
    state = {name: torch.zeros(()).expand(shape) for name, shape in keys.items()}
    with torch.device('meta'):  # no memory for the parameters
        backbone = VMamba(variant)
    converted = backbone.convert_checkpoint(state)
    missing, unexpected = backbone.load_state_dict(converted, strict=False, assign=True)
    assert (len(missing), unexpected) == (8, [])
    assert backbone.describe_checkpoint(converted).startswith(f'VMamba {variant} (')
    assert resolve_arch(variant)['depths'] == backbone.depths
