"""Published layouts of LocalVMamba and EfficientVMamba load exactly; other families' raise."""

from itertools import permutations

import pytest
import torch
from mmengine.runner import load_checkpoint
from support_golden import official_keys
from support_vss import Detector, as_detector, assert_loaded, legacy, load, official_state

from mambaout_mm import EfficientVMamba, LocalVMamba, VMamba
from mambaout_mm.checkpoints import CheckpointError
from mambaout_mm.training.checks import check_fits

NUMBERS = dict(depths=(1, 1, 2, 1), dims=(8, 16, 24, 32))
ARCHS = {
    VMamba: dict(NUMBERS, version='v0', d_state=2),
    LocalVMamba: dict(NUMBERS, d_state=2),
    EfficientVMamba: NUMBERS,
}
VARIANTS = [
    (LocalVMamba, 'tiny'),
    (LocalVMamba, 'small'),
    (EfficientVMamba, 'tiny'),
    (EfficientVMamba, 'small'),
    (EfficientVMamba, 'base'),
]


@pytest.fixture(params=[LocalVMamba, EfficientVMamba])
def cls(request):
    return request.param


def published(cls, variant):
    """The state dict of a published file, without memory for its numbers."""
    keys, _ = official_keys(f'{cls.__name__.lower()}_{variant}')
    return {name: torch.zeros(()).expand(shape) for name, shape in keys['keys'].items()}


@pytest.mark.parametrize(
    'layout',
    [
        lambda s: dict(state_dict=s),
        lambda s: dict(state_dict=legacy(s)),
        lambda s: as_detector(s, NUMBERS['dims']),
    ],
    ids=['classification', 'legacy names', 'detector'],
)
def test_layouts(cls, layout, tmp_path):
    official = official_state(cls, ARCHS[cls])
    torch.save(layout(official), tmp_path / 'w.pth')
    assert_loaded(load(cls, ARCHS[cls], tmp_path / 'w.pth'), official)


def test_an_average_around_distributed_training_loads(tmp_path):
    official = official_state(EfficientVMamba, NUMBERS)
    wrapped = {f'module.module.{name}': tensor for name, tensor in official.items()}
    torch.save(dict(state_dict=wrapped), tmp_path / 'w.pth')
    assert_loaded(load(EfficientVMamba, NUMBERS, tmp_path / 'w.pth'), official)


@pytest.mark.parametrize('names', [dict, legacy], ids=['official names', 'legacy names'])
@pytest.mark.parametrize('loader', ['torch', 'mmengine'])
def test_a_published_detector_can_be_loaded_whole(cls, names, loader, tmp_path):
    """As for testing it, resuming, and `load_from`; its output norms come along."""
    official = official_state(cls, ARCHS[cls])
    content = as_detector(names(official), NUMBERS['dims'])
    content['state_dict']['neck.weight'] = torch.ones(3, 1)
    torch.save(content, tmp_path / 'w.pth')
    model = Detector(cls, ARCHS[cls])
    check_fits(model, str(tmp_path / 'w.pth'))
    if loader == 'torch':
        model.load_state_dict(content['state_dict'], strict=True)
    else:
        load_checkpoint(model, str(tmp_path / 'w.pth'), strict=True)
    for i in range(4):
        expected = content['state_dict'][f'backbone.outnorm{i}.weight']
        assert torch.equal(getattr(model.backbone, f'norm{i}').weight, expected)
    assert_loaded(model.backbone, official)


@pytest.mark.parametrize('out_indices', [(0,), (1,), (0, 2)])
def test_stages_that_are_not_built_are_left_in_the_file(cls, out_indices, tmp_path):
    official = official_state(cls, ARCHS[cls])
    torch.save(official, tmp_path / 'w.pth')
    assert_loaded(load(cls, ARCHS[cls], tmp_path / 'w.pth', out_indices=out_indices), official)


@pytest.mark.parametrize(('cls', 'variant'), VARIANTS)
def test_a_whole_published_key_list_fits(cls, variant):
    with torch.device('meta'):  # no memory for the parameters
        backbone = cls(variant)
    converted = backbone.convert_checkpoint(published(cls, variant))
    assert backbone.match_checkpoint(published(cls, variant))[1] == [
        'norm0',
        'norm1',
        'norm2',
        'norm3',
    ]
    assert backbone.describe_checkpoint(converted).startswith(f'{cls.__name__} {variant} (')


@pytest.mark.parametrize(
    ('cls', 'words'),
    [
        (
            LocalVMamba,
            r'it holds LocalVMamba tiny \(depths \(2, 2, 9, 2\), dims \(96, 192, 384, 768\), 192 '
            r'channels and 16 states in the first scan, without MLP\), which does not fit this '
            r'model of depths \(1, 1, 2, 1\)',
        ),
        (
            EfficientVMamba,
            r'it holds EfficientVMamba tiny \(depths \(2, 2, 4, 2\), dims \(48, 96, 192, 384\), 96 '
            r'channels and 16 states in the first scan, without MLP\), which does not fit this '
            r'model of depths \(1, 1, 2, 1\)',
        ),
    ],
)
def test_another_variant_raises(cls, words):
    backbone = cls(ARCHS[cls])
    with pytest.raises(CheckpointError, match=words):
        backbone.match_checkpoint(published(cls, 'tiny'))


@pytest.mark.parametrize(('cls', 'other'), permutations(ARCHS, 2))
def test_another_family_raises(cls, other):
    words = f"no {cls.__name__} backbone in it, but one that type='{other.__name__}' takes"
    with pytest.raises(CheckpointError, match=words):
        cls(ARCHS[cls]).convert_checkpoint(official_state(other, ARCHS[other]))
