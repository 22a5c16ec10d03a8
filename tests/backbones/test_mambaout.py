"""MambaOut against the official implementation's vectors and timm."""

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from mambaout_mm import MambaOut
from mambaout_mm.backbones.mambaout import ARCHITECTURES

DATA = Path(__file__).parents[1] / 'data'
PAPER = ('femto', 'kobe', 'tiny', 'small', 'base')
SMALL = dict(depths=(1, 1, 2, 1), dims=(8, 16, 24, 32))


def relative_error(value, expected):
    return (value - expected).abs().max().item() / expected.abs().max().item()


@pytest.fixture(params=sorted(p.name for p in DATA.glob('mambaout_*.npz')))
def golden(request):
    """One file of vectors: the arrays, and our backbone with its weights."""
    arrays = np.load(DATA / request.param)
    kwargs = json.loads(str(arrays['config']))['kwargs']
    arch = {k: kwargs[k] for k in ('depths', 'dims', 'conv_ratio', 'kernel_size') if k in kwargs}
    backbone = MambaOut(arch, output_norm=False).eval()
    state = {k[6:]: torch.from_numpy(arrays[k]) for k in arrays.files if k.startswith('state.')}
    backbone.load_state_dict(backbone.convert_checkpoint(state), strict=True)
    return arrays, backbone


# golden/README: at these limits a 2 % change of any one parameter tensor fails.
@pytest.mark.parametrize(
    ('dtype', 'limit', 'grad_limit'), [(torch.float32, 3e-5, 1e-4), (torch.float64, 5e-6, 5e-6)]
)
def test_reproduces_the_official_outputs_and_gradients(golden, dtype, limit, grad_limit):
    arrays, backbone = golden
    backbone = backbone.to(dtype)
    image = torch.from_numpy(arrays['input']).to(dtype).requires_grad_()
    outs = backbone(image)
    loss = 0
    for i, out in enumerate(outs):
        assert relative_error(out, torch.from_numpy(arrays[f'stage{i}'])) < limit, f'stage {i}'
        loss = loss + (out * torch.from_numpy(arrays[f'cotangent{i}'])).sum()
    loss.backward()
    grads = dict(backbone.named_parameters())
    assert relative_error(image.grad, torch.from_numpy(arrays['grad_input'])) < grad_limit
    for name in (k for k in arrays.files if k.startswith('grad.')):
        error = relative_error(grads[name[5:]].grad, torch.from_numpy(arrays[name]))
        assert error < grad_limit, name


def test_every_parameter_has_the_official_gradient(golden):
    """Sum and L2 norm of each gradient, which the files give for every parameter."""
    arrays, backbone = golden
    backbone = backbone.double()
    outs = backbone(torch.from_numpy(arrays['input']).double())
    sum(
        (out * torch.from_numpy(arrays[f'cotangent{i}'])).sum() for i, out in enumerate(outs)
    ).backward()
    stats = json.loads(str(arrays['config']))['grad_stats_f64']
    for name, param in backbone.named_parameters():
        total, norm = stats[name]
        assert param.grad.norm().item() == pytest.approx(norm, rel=1e-5), name
        assert param.grad.sum().item() == pytest.approx(total, rel=1e-5, abs=1e-5 * norm), name


@pytest.mark.parametrize('variant', PAPER)
def test_names_and_shapes_are_the_official_ones(variant):
    keys = json.loads((DATA / 'keys' / f'mambaout_{variant}.json').read_text())
    official = {
        k: tuple(v) for k, v in keys['keys'].items() if not k.startswith(('norm.', 'head.'))
    }
    backbone = MambaOut(variant)
    ours = {k: tuple(v.shape) for k, v in backbone.state_dict().items()}
    norms = {k for k in ours if k.startswith('norm')}
    assert {k: v for k, v in ours.items() if k not in norms} == official
    count = sum(p.numel() for p in backbone.parameters())
    assert count == keys['params_backbone_plus_4_layernorms']


@pytest.mark.parametrize('variant', ARCHITECTURES)
def test_agrees_with_timm(variant):
    torch.manual_seed(0)
    depths = (1, 1, 2, 1)  # what sets variants apart is in each block
    theirs = timm.create_model(f'mambaout_{variant}', features_only=True, depths=depths).eval()
    for param in theirs.parameters():  # biases, norms and LayerScale would hide errors at 0 and 1
        param.data += 0.1 * torch.randn_like(param) * param.abs().mean().clamp(min=0.1)
    ours = MambaOut(dict(ARCHITECTURES[variant], depths=depths), output_norm=False).eval()
    ours.load_state_dict(ours.convert_checkpoint(theirs.state_dict()), strict=True)
    image = torch.randn(1, 3, 75, 97)
    with torch.no_grad():
        for out, expected in zip(ours(image), theirs(image), strict=True):
            assert relative_error(out, expected.permute(0, 3, 1, 2)) < 1e-5


def test_initial_weights_follow_the_official_code():
    backbone = MambaOut('femto')
    for name, module in backbone.named_modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            assert module.bias.abs().max() == 0, name
            if module.weight.numel() > 2000:
                assert module.weight.std().item() == pytest.approx(0.02, rel=0.1), name
        elif isinstance(module, torch.nn.LayerNorm):
            assert torch.equal(module.weight, torch.ones_like(module.weight)), name
            assert module.eps == 1e-6, name


@pytest.mark.parametrize(
    ('kwargs', 'words'),
    [
        (
            dict(arch=dict(SMALL, kernel=5)),
            "unknown key 'kernel' in arch; did you mean kernel_size",
        ),
        (dict(arch=dict(SMALL, kernel_size=4)), 'kernel_size must be odd, got 4'),
        (dict(arch=dict(SMALL, activation='relu')), "one of gelu, silu, got 'relu'"),
        (
            dict(arch=dict(SMALL, conv_ratio=3.0)),
            'conv_ratio 3.0 gives 24 convolved channels of 21',
        ),
    ],
)
def test_bad_arguments_are_named(kwargs, words):
    with pytest.raises(ValueError, match=words):
        MambaOut(**kwargs)
