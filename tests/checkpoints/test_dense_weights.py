"""Released detectors and segmentors: name, address, config and layout belong together."""

import json

import pandas as pd
import pytest
import torch
from mmengine.config import Config
from support import ROOT
from support_golden import official_keys
from support_vss import legacy

from mambaout_mm.checkpoints.catalogue import resolve
from mambaout_mm.checkpoints.state_dicts import differences
from mambaout_mm.comparison.published_results import published_results
from mambaout_mm.measure.complexity import build_model
from mambaout_mm.registry import FAMILIES

DENSE = {name: weights for family in FAMILIES for name, weights in family.dense_weights.items()}
LAYERS_OF_TAPS = {'l1': (5, 11, 17, 23), 'l2': (5, 11, 17, 23), 'l3': (8, 17, 26, 35)}


def released_backbone(arch):
    """Names and shapes that the authors' wrappers for detection and segmentation save."""
    if arch in LAYERS_OF_TAPS:
        _, shapes = official_keys(f'plainmamba_{arch}')
        shapes = {name: shape for name, shape in shapes.items() if not name.startswith('head')}
        dim = shapes['pos_embed'][-1]
        for layer in LAYERS_OF_TAPS[arch][:-1]:
            shapes |= {f'norm_layer{layer}.{kind}': [dim] for kind in ('weight', 'bias')}
        return shapes
    size, _, version = arch.rpartition('_')
    name = f'vmamba_v0_{size}' if version == 'v0' else f'vmamba_{arch}'
    content = json.loads((ROOT / 'tests' / 'data' / 'keys' / f'{name}.json').read_text())
    wrapper = content['backbone_differs_from_keys']
    kept = {n: s for n, s in content['keys'].items() if n not in wrapper['removed']}
    return kept | wrapper['added']


def released_model(model, arch, rename=dict):
    """The state dict of a released file, with the heads of the config's model."""
    heads = {n: x for n, x in model.state_dict().items() if not n.startswith('backbone.')}
    backbone = {n: torch.empty(s, device='meta') for n, s in released_backbone(arch).items()}
    return heads | {f'backbone.{name}': x for name, x in rename(backbone).items()}


def build(config):
    with torch.device('meta'):
        return build_model(Config.fromfile(ROOT / 'configs' / f'{config}.py'))


@pytest.mark.parametrize('name', DENSE)
def test_its_key_list_fits_its_config(name):
    arch = name.split('://')[1].removesuffix('_3x').removesuffix('_bs8')
    model = build(DENSE[name].config)
    state_dict = released_model(model, arch)
    assert differences(model.state_dict(), state_dict)  # before its names are ours
    model.backbone.rename_published(state_dict, 'backbone.')
    assert differences(model.state_dict(), state_dict) == ''


def test_names_of_the_first_release_fit_too():
    model = build('detection/maskrcnn_vmamba_t_v0')

    def first_names(backbone):
        norms = {name: x for name, x in backbone.items() if name.startswith('outnorm')}
        return legacy({n: x for n, x in backbone.items() if n not in norms}) | norms

    state_dict = released_model(model, 'tiny_v0', first_names)
    assert any('.self_attention.' in name for name in state_dict)
    model.backbone.rename_published(state_dict, 'backbone.')
    assert differences(model.state_dict(), state_dict) == ''


@pytest.mark.parametrize('name', DENSE)
def test_it_has_an_address_of_its_own_and_a_published_score(name):
    weights = DENSE[name]
    assert resolve(name) == weights.url
    assert [other.url for other in DENSE.values()].count(weights.url) == 1
    rows = published_results()
    rows = rows[(rows['backbone'] == weights.published) & (rows['schedule'] == weights.schedule)]
    assert pd.notna(rows.iloc[0][['ap_box', 'miou_ss', 'miou_ms']]).any()
