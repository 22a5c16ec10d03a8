"""The backbone against the official implementation's vectors, timm, and its own contract."""

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import DefaultScope

from mambaout_mm import MambaOut
from mambaout_mm.backbones.mambaout import ARCHITECTURES
from mambaout_mm.checkpoints import mambaout as layout

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
    theirs = timm.create_model(f'mambaout_{variant}', features_only=True).eval()
    for param in theirs.parameters():  # biases, norms and LayerScale would hide errors at 0 and 1
        param.data += 0.1 * torch.randn_like(param) * param.abs().mean().clamp(min=0.1)
    ours = MambaOut(variant, output_norm=False).eval()
    ours.load_state_dict(layout.to_official(theirs.state_dict()), strict=True)
    image = torch.randn(1, 3, 75, 97)
    with torch.no_grad():
        for out, expected in zip(ours(image), theirs(image), strict=True):
            assert relative_error(out, expected.permute(0, 3, 1, 2)) < 1e-5


@pytest.mark.parametrize('size', [(32, 32), (33, 63), (64, 96), (75, 50), (224, 100)])
def test_maps_are_nchw_and_round_up_at_each_stride(size):
    backbone = MambaOut(SMALL)
    outs = backbone(torch.randn(2, 3, *size))
    assert isinstance(outs, tuple)
    for out, channels, stride in zip(
        outs, backbone.out_channels, backbone.out_strides, strict=True
    ):
        assert out.shape == (2, channels, *(-(-n // stride) for n in size))


@pytest.mark.parametrize('output_norm', [True, False])
@pytest.mark.parametrize('out_indices', [(0, 1, 2, 3), (1, 2, 3), (3,), (0, 2), (0,)])
def test_every_parameter_receives_a_gradient(out_indices, output_norm):
    """An unused one stops DistributedDataParallel."""
    backbone = MambaOut(SMALL, out_indices=out_indices, output_norm=output_norm)
    outs = backbone(torch.randn(1, 3, 64, 64))
    assert len(outs) == len(out_indices)
    assert [o.shape[1] for o in outs] == list(backbone.out_channels)
    sum((out * torch.randn_like(out)).sum() for out in outs).backward()
    assert [n for n, p in backbone.named_parameters() if p.grad is None] == []
    norms = {n.split('.')[0] for n, _ in backbone.named_parameters() if n.startswith('norm')}
    assert norms == ({f'norm{i}' for i in out_indices} if output_norm else set())


def test_output_norm_normalises_each_pixel():
    out = MambaOut(SMALL)(torch.randn(1, 3, 64, 64))[1]
    assert out.mean(1).abs().max() < 1e-5
    assert (out.var(1, unbiased=False) - 1).abs().max() < 0.05


@pytest.mark.parametrize('frozen_stages', [-1, 0, 1, 4])
def test_frozen_stages(frozen_stages):
    backbone = MambaOut(SMALL, frozen_stages=frozen_stages, drop_path_rate=0.5)
    assert backbone.train() is backbone
    frozen_names = [f'downsample_layers.{i}.' for i in range(max(frozen_stages, 1))]
    frozen_names += [f'stages.{i}.' for i in range(frozen_stages)]
    frozen_names += [f'norm{i}.' for i in range(frozen_stages)]
    for name, param in backbone.named_parameters():
        frozen = frozen_stages >= 0 and name.startswith(tuple(frozen_names))
        assert param.requires_grad != frozen, name
    training = [stage.training for stage in backbone.stages]
    assert training == [i >= frozen_stages for i in range(4)]
    assert not any(m.training for m in backbone.eval().modules())


def test_checkpointing_gives_the_same_gradients_and_keeps_less():
    torch.manual_seed(0)
    plain, saving = MambaOut(SMALL), MambaOut(SMALL, with_cp=True)
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
    for (name, a), b in zip(plain.named_parameters(), saving.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad), name
    assert kept[1] < 0.6 * kept[0]


def test_drop_path_rises_linearly_over_all_blocks():
    backbone = MambaOut('tiny', drop_path_rate=0.34)
    rates = [getattr(b.drop_path, 'drop_prob', 0.0) for stage in backbone.stages for b in stage]
    assert rates == pytest.approx(np.linspace(0, 0.34, 18), abs=1e-6)


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


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg', 'mmengine'])
@pytest.mark.parametrize('type_', ['MambaOut', 'mambaout_mm.MambaOut'])
def test_builds_by_name_from_any_scope(scope, type_):
    with DefaultScope.overwrite_default_scope(scope):
        backbone = MMENGINE_MODELS.build(dict(type=type_, arch=SMALL))
    assert type(backbone) is MambaOut


@pytest.mark.parametrize(
    ('kwargs', 'words'),
    [
        (dict(arch='tinny'), "unknown MambaOut arch 'tinny'; known: femto, kobe, tiny"),
        (dict(arch=dict(depths=(1, 1, 1, 1))), 'arch needs depths and dims'),
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
        (dict(arch=dict(depths=(1, 1, 1), dims=(8, 8, 8))), 'depths must be four positive'),
        (dict(arch=SMALL, out_indices=(0, 4)), r'out of 0, 1, 2, 3; got \(0, 4\)'),
        (dict(arch=SMALL, out_indices=(2, 1)), 'out_indices must be ascending'),
        (dict(arch=SMALL, out_indices=()), 'out_indices must be ascending'),
        (dict(arch=SMALL, frozen_stages=5), 'frozen_stages must be between -1'),
        (dict(arch=SMALL, out_indices=(0,), frozen_stages=2), 'all 1 stages'),
    ],
)
def test_bad_arguments_are_named(kwargs, words):
    with pytest.raises(ValueError, match=words):
        MambaOut(**kwargs)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('with_cp', [False, True])
def test_mixed_precision_on_cuda(dtype, with_cp):
    backbone = MambaOut('femto', with_cp=with_cp, drop_path_rate=0.1).cuda()
    image = torch.randn(2, 3, 96, 64, device='cuda')
    with torch.autocast('cuda', dtype):
        loss = sum(out.float().square().mean() for out in backbone(image))
    loss.backward()
    for name, param in backbone.named_parameters():
        assert torch.isfinite(param.grad).all(), name


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
def test_cuda_agrees_with_cpu():
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    backbone = MambaOut('tiny').eval()
    image = torch.randn(1, 3, 133, 97)
    with torch.no_grad():
        expected = backbone(image)
        outs = backbone.cuda()(image.cuda())
    for out, reference in zip(outs, expected, strict=True):
        assert relative_error(out.cpu(), reference) < 1e-4
