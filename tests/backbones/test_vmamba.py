"""VMamba against the official implementation's vectors."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mambaout_mm import VMamba
from mambaout_mm.backbones.vmamba import ARCHITECTURES, SS2D

DATA = Path(__file__).parents[1] / 'data'
KEYS = {f'{name}_v0': f'v0_{name}' for name in ('tiny', 'small', 'base')}


def relative_error(value, expected):
    return (value - expected).abs().max().item() / expected.abs().max().item()


def load(path):
    arrays = np.load(path)
    state = {k[6:]: torch.from_numpy(arrays[k]) for k in arrays.files if k.startswith('state.')}
    return arrays, json.loads(str(arrays['config'])), state


FILES = sorted(p.name for p in DATA.glob('vmamba_*.npz'))
WITH_LOGITS = [name for name in FILES if 'logits' in np.load(DATA / name)]


@pytest.fixture(params=FILES)
def golden(request):
    """One file of vectors: the arrays, and our backbone with its weights."""
    arrays, config, state = load(DATA / request.param)
    kwargs = config['kwargs']
    arch = dict(
        depths=kwargs['depths'],
        dims=config['resolved']['dims'],
        version='v0' if kwargs['forward_type'] == 'v0' else 'v2',
        ssm_ratio=kwargs['ssm_ratio'],
        d_state=kwargs['ssm_d_state'],
        mlp_ratio=kwargs['mlp_ratio'],
    )
    backbone = VMamba(arch).eval()
    backbone.load_state_dict(backbone.convert_checkpoint(state), strict=True)
    return arrays, backbone


def official_name(name):
    return f'out{name}' if name.startswith('norm') else name


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
        assert relative_error(out, torch.from_numpy(arrays[f'outnorm{i}'])) < limit, f'stage {i}'
        loss = loss + (out * torch.from_numpy(arrays[f'cotangent{i}'])).sum()
    loss.backward()
    grads = {official_name(n): p.grad for n, p in backbone.named_parameters()}
    assert relative_error(image.grad, torch.from_numpy(arrays['grad_input'])) < grad_limit
    for name in (k for k in arrays.files if k.startswith('grad.')):
        assert relative_error(grads[name[5:]], torch.from_numpy(arrays[name])) < grad_limit, name
    backbone.output_norm = False
    with torch.no_grad():
        for i, out in enumerate(backbone(image)):
            assert relative_error(out, torch.from_numpy(arrays[f'stage{i}'])) < limit, f'stage {i}'


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
        total, norm = stats[official_name(name)]
        assert param.grad.norm().item() == pytest.approx(norm, rel=1e-5), name
        assert param.grad.sum().item() == pytest.approx(total, rel=1e-5, abs=1e-5 * norm), name


@pytest.mark.parametrize('golden', WITH_LOGITS, indirect=True)
def test_the_last_stage_leads_to_the_official_logits(golden):
    """The classifier is not part of the backbone; norm, mean and a linear layer make it."""
    arrays, backbone = golden
    head = {k[21:]: torch.from_numpy(arrays[k]) for k in arrays if k.startswith('state_cls.')}
    backbone.output_norm = False
    with torch.no_grad():
        last = backbone(torch.from_numpy(arrays['input']))[3].permute(0, 2, 3, 1)
    pooled = nn.functional.layer_norm(
        last, last.shape[-1:], head['norm.weight'], head['norm.bias']
    ).mean((1, 2))
    logits = pooled @ head['head.weight'].T + head['head.bias']
    assert relative_error(logits, torch.from_numpy(arrays['logits'])) < 3e-5


@pytest.mark.parametrize('version', ['v05noz', 'v0'])
def test_one_operator_reproduces_the_official_one(version):
    arrays, _, state = load(DATA / f'ss2d_{version}_7x9.npz')
    inner, states = state['out_norm.weight'].numel(), state['A_logs'].shape[1]
    dim = arrays['input'].shape[1]
    op = SS2D(dim, ssm_ratio=inner / dim, d_state=states, gate=version == 'v0').double()
    state = {k: v.flatten(1) if v.dim() == 4 and 'proj' in k else v for k, v in state.items()}
    op.load_state_dict(state, strict=True)
    x = torch.from_numpy(arrays['input']).double().requires_grad_()
    out = op(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    assert relative_error(out, torch.from_numpy(arrays['output'])) < 5e-6
    out.backward(torch.from_numpy(arrays['cotangent']).double())
    assert relative_error(x.grad, torch.from_numpy(arrays['grad_input'])) < 5e-6
    for name, param in op.named_parameters():
        expected = torch.from_numpy(arrays[f'grad.{name}']).reshape(param.shape)
        assert relative_error(param.grad, expected) < 5e-6, name


@pytest.mark.parametrize('variant', ARCHITECTURES)
def test_names_and_shapes_are_the_official_ones(variant):
    keys = json.loads((DATA / 'keys' / f'vmamba_{KEYS.get(variant, variant)}.json').read_text())
    official = {k: tuple(v) for k, v in keys['keys'].items() if not k.startswith('classifier.')}
    backbone = VMamba(variant)
    ours = {k: tuple(v.shape) for k, v in backbone.state_dict().items()}
    norms = {k for k in ours if k.startswith('norm')}
    assert {k: v for k, v in ours.items() if k not in norms} == official
    count = sum(p.numel() for p in backbone.parameters())
    assert count == keys['params_backbone_plus_4_outnorms']


def test_initial_weights_follow_the_official_code():
    torch.manual_seed(0)
    op = VMamba('tiny_v0').layers[2].blocks[0].op
    inner, rank = op.dt_projs_weight.shape[1:]
    assert torch.equal(op.A_logs[7].exp().round(), torch.arange(1.0, 17))
    assert torch.equal(op.Ds, torch.ones(4 * inner))
    steps = nn.functional.softplus(op.dt_projs_bias)
    assert 0.9e-3 < steps.min() < 2e-3 and 0.05 < steps.max() < 0.101
    assert steps.log().median().item() == pytest.approx(np.log(1e-2), abs=0.15)
    assert op.dt_projs_weight.abs().max().item() == pytest.approx(rank**-0.5, rel=1e-2)
    assert op.x_proj_weight.abs().max().item() == pytest.approx(inner**-0.5, rel=1e-2)
    assert op.in_proj.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert op.conv2d.bias.abs().max() > 0  # PyTorch's own initialisation
    one_state = VMamba(dict(depths=(1, 1, 1, 1), dims=(8, 8, 8, 8))).layers[0].blocks[0].op
    assert torch.equal(one_state.A_logs, torch.zeros(32, 1))


@pytest.mark.parametrize(
    ('arch', 'words'),
    [
        (dict(version='v1'), "version must be one of v2, v0, got 'v1'"),
        (dict(ssm_ration=2), "unknown key 'ssm_ration' in arch; did you mean ssm_ratio"),
        (dict(d_state=0), 'd_state must be a positive integer, got 0'),
        (dict(ssm_ratio=0.1), 'ssm_ratio must leave at least one channel, got 0.1'),
    ],
)
def test_bad_numbers_are_named(arch, words):
    with pytest.raises(ValueError, match=words):
        VMamba(dict(depths=(1, 1, 1, 1), dims=(8, 8, 8, 8), **arch))
