"""Shared by the tests of checkpoints of VMamba and the families whose code began as its."""

import torch
from torch import nn


def official_state(cls, arch, seed=1):
    """A classification file's state dict: random, with the classifier's keys."""
    torch.manual_seed(seed)
    backbone = cls(arch, output_norm=False)
    state = {
        k: torch.randn_like(v) if v.is_floating_point() else torch.full_like(v, 7)
        for k, v in backbone.state_dict().items()
    }
    for name in ('norm.weight', 'norm.bias', 'head.weight', 'head.bias'):
        state[f'classifier.{name}'] = torch.randn(32)
    return state


def legacy(state):
    """The names of the first release, written independently of the key map."""
    in_block = {'norm': 'ln_1', 'op': 'self_attention'}
    renamed = {}
    for name, tensor in state.items():
        parts = name.split('.')
        if parts[0] == 'patch_embed':
            parts[1] = 'proj' if parts[1] == '0' else 'norm'
        elif parts[0] == 'classifier':
            del parts[0]
        elif parts[2] == 'blocks':
            parts[4] = in_block.get(parts[4], parts[4])
        renamed['.'.join(parts)] = tensor
    return renamed


def as_detector(state, dims):
    """What the official detection and segmentation code saves: its own output norms."""
    inside = {f'backbone.{k}': v for k, v in state.items() if not k.startswith('classifier.')}
    norms = {
        f'backbone.outnorm{i}.{kind}': torch.randn(dim)
        for i, dim in enumerate(dims)
        for kind in ('weight', 'bias')
    }
    return dict(meta={}, state_dict={**inside, **norms, 'neck.weight': torch.ones(3)})


def load(cls, arch, path, key=None, **kwargs):
    init_cfg = dict(type='Pretrained', checkpoint=str(path))
    if key:
        init_cfg['key'] = key
    backbone = cls(arch, init_cfg=init_cfg, **kwargs)
    backbone.init_weights()
    return backbone


def assert_loaded(backbone, official):
    own = {k: v for k, v in backbone.state_dict().items() if not k.startswith('norm')}
    assert len(own) > 10
    for name, tensor in own.items():
        assert torch.equal(tensor, official[name]), name


class Detector(nn.Module):
    """What a loader of whole models sees."""

    def __init__(self, cls, arch):
        super().__init__()
        self.backbone = cls(arch)
        self.neck = nn.Linear(1, 3, bias=False)
