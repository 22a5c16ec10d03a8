"""Layer ids for every depth, and the learning rates that come of them."""

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch import nn

from mambaout_mm import MambaOut, Vim

SMALL_DIMS = (8, 16, 24, 32)


class Detector(nn.Module):
    def __init__(self, depths):
        super().__init__()
        self.backbone = MambaOut(dict(depths=depths, dims=SMALL_DIMS))
        self.head = nn.Linear(32, 2)


def optimizer_of(model, **paramwise_cfg):
    wrapper = build_optim_wrapper(
        model,
        dict(
            type='OptimWrapper',
            optimizer=dict(type='AdamW', lr=1.0, weight_decay=0.05),
            constructor='LayerDecayOptimWrapperConstructor',
            paramwise_cfg=paramwise_cfg,
        ),
    )
    return wrapper.optimizer


def settings_by_name(model, optimizer):
    by_param = {id(p): g for g in optimizer.param_groups for p in g['params']}
    return {n: by_param[id(p)] for n, p in model.named_parameters()}


# Depth of the third stage: tiny 9, kobe 15, base_short_rw 25, small and base 27, base_tall_rw 30.
@pytest.mark.parametrize(
    ('third', 'last'), [(9, 6), (15, 8), (25, 12), (27, 12), (30, 13), (1, 4), (2, 4)]
)
def test_layer_wise_ids(third, last):
    backbone = MambaOut(dict(depths=(3, 3, third, 3), dims=SMALL_DIMS))
    depth = {
        name: backbone.get_layer_depth(f'backbone.{name}', 'backbone.')
        for name, _ in backbone.named_parameters()
    }
    assert {n for _, n in depth.values()} == {last + 2}
    ids = {name: layer for name, (layer, _) in depth.items()}
    assert ids['downsample_layers.0.conv1.weight'] == 0
    assert ids['stages.0.2.fc1.weight'] == 1
    assert ids['downsample_layers.1.conv.weight'] == ids['stages.1.0.fc1.weight'] == 2
    assert ids['downsample_layers.2.conv.weight'] == ids['stages.2.0.fc1.weight'] == 3
    assert [ids[f'stages.2.{b}.fc1.weight'] for b in range(third)] == [
        3 + b // 3 for b in range(third)
    ]
    assert ids['downsample_layers.3.conv.weight'] == ids['stages.3.0.fc1.weight'] == last
    assert ids['norm0.weight'] == ids['norm3.bias'] == last + 1
    assert backbone.get_layer_depth('roi_head.stages.0.0.weight', 'backbone.')[0] == last + 1
    assert set(ids.values()) == set(range(last + 2))  # no two groups share an id, none is skipped


def test_layer_wise_rates():
    model = Detector((1, 1, 15, 1))
    groups = settings_by_name(model, optimizer_of(model, decay_rate=0.9))
    assert groups['head.weight']['lr'] == 1.0
    assert groups['backbone.norm2.weight']['lr'] == 1.0
    assert groups['backbone.stages.3.0.fc1.weight']['lr'] == pytest.approx(0.9)
    assert groups['backbone.stages.2.14.fc1.weight']['lr'] == pytest.approx(0.9**2)
    assert groups['backbone.stages.2.0.fc1.weight']['lr'] == pytest.approx(0.9**6)
    assert groups['backbone.downsample_layers.0.conv1.weight']['lr'] == pytest.approx(0.9**9)


def test_stage_wise_rates():
    model = Detector((1, 1, 30, 1))
    groups = settings_by_name(model, optimizer_of(model, decay_rate=0.5, decay_type='stage_wise'))
    assert groups['head.weight']['lr'] == 1.0
    for stage in range(4):
        name = f'backbone.stages.{stage}.0.fc2.weight'
        assert groups[name]['lr'] == 0.5 ** (4 - stage)
        lr = groups[f'backbone.downsample_layers.{stage}.{"conv" if stage else "conv2"}.weight']
        assert lr['lr'] == 0.5**5


def test_vectors_are_not_decayed_and_frozen_parameters_left_out():
    model = Detector((1, 1, 1, 1))
    model.backbone.stages[0].requires_grad_(False)
    optimizer = optimizer_of(model, decay_rate=0.9)
    held = {id(p) for g in optimizer.param_groups for p in g['params']}
    for name, param in model.named_parameters():
        assert (id(param) in held) == ('stages.0.' not in name), name
    for group in optimizer.param_groups:
        for param in group['params']:
            assert group['weight_decay'] == (0.05 if param.ndim > 1 else 0.0)


@pytest.mark.parametrize(
    ('paramwise_cfg', 'words'),
    [
        (dict(), 'needs decay_rate'),
        (dict(decay_rate=0.9, num_layers=6), "does not take 'num_layers'; it is read from"),
        (dict(decay_rate=0.9, decay_typ='x'), "'decay_typ'; did you mean decay_type"),
        (dict(decay_rate=0.9, decay_type='block_wise'), "got 'block_wise'"),
    ],
)
def test_bad_options_are_named(paramwise_cfg, words):
    with pytest.raises(ValueError, match=words):
        optimizer_of(Detector((1, 1, 1, 1)), **paramwise_cfg)


def test_a_backbone_that_does_not_know_its_depth_is_refused():
    model = nn.Module()
    model.backbone = nn.Linear(2, 2)
    with pytest.raises(TypeError, match='whose backbone has get_layer_depth.*got Linear'):
        optimizer_of(model, decay_rate=0.9)


def test_a_step_moves_each_layer_by_its_rate():
    """AdamW's first step has the size of the learning rate, whatever the gradient."""
    model = Detector((1, 1, 3, 1))
    optimizer = optimizer_of(model, decay_rate=0.5)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    for param in model.parameters():
        param.grad = torch.ones_like(param)
    optimizer.step()
    bias = 'backbone.stages.3.0.fc1.bias'
    moved = (dict(model.named_parameters())[bias] - before[bias]).abs().mean().item()
    assert moved == pytest.approx(0.5, rel=1e-3)


def test_embeddings_are_not_decayed():
    model = nn.Module()
    model.backbone = Vim(dict(depths=(1, 1, 1, 1), dim=16))
    groups = settings_by_name(model, optimizer_of(model, decay_rate=0.9))
    assert groups['backbone.pos_embed']['weight_decay'] == 0
    assert groups['backbone.cls_token']['weight_decay'] == 0
    assert groups['backbone.patch_embed.proj.weight']['weight_decay'] > 0
    assert groups['backbone.pos_embed']['lr'] == pytest.approx(0.9**5)
    assert groups['backbone.layers.3.mixer.in_proj.weight']['lr'] == pytest.approx(0.9)
