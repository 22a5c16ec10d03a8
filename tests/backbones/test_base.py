"""What every family promises as a backbone (PyramidBackbone)."""

from pathlib import Path

import mmseg.models
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import DefaultScope
from support import needs_torch

from mambaout_mm import (
    EfficientVMamba,
    LocalVim,
    LocalVMamba,
    MambaOut,
    PlainMamba,
    TimmPyramid,
    Vim,
    ViT,
    VMamba,
    registry,
)
from mambaout_mm.backbones.plain import PlainBackbone

NUMBERS = dict(depths=(1, 1, 2, 1), dims=(8, 16, 24, 32))
PLAIN = dict(depths=(1, 1, 2, 1), dim=16)
FAMILIES = {
    'MambaOut': (MambaOut, NUMBERS),
    'VMamba': (VMamba, NUMBERS),
    'VMamba v0': (VMamba, dict(NUMBERS, version='v0', d_state=2)),
    'LocalVMamba': (
        LocalVMamba,
        dict(NUMBERS, d_state=2, directions=(('h', 'v_flip', 'w2', 'w7_flip'),) * 5),
    ),
    'EfficientVMamba': (EfficientVMamba, NUMBERS),
    'Vim': (Vim, PLAIN),
    'LocalVim': (LocalVim, dict(PLAIN, directions=(('h', 'v_flip', 'w2', 'w7_flip'),) * 5)),
    'ViT': (ViT, dict(PLAIN, head_dim=8)),
    # The stem has 64 channels: blocks must outweigh it where memory is counted.
    'PlainMamba': (PlainMamba, dict(PLAIN, dim=64, num_convs_patch_embed=0)),
}
FLOORING = {'VMamba v0', 'LocalVMamba', 'EfficientVMamba'}  # their stem cuts what 4 does not divide


MIXERS = {f'MambaOut {mixer}': mixer for mixer in ('identity', 'ssm', 'conv+ssm', 'attention')}


def builder(name):
    """Builds a small network of one family, or of MambaOut with another token mixer."""
    mixer = MIXERS.get(name)
    cls, arch = FAMILIES['MambaOut' if mixer else name]
    options = dict(mixer=mixer) if mixer else {}

    def build(**kwargs):
        return cls(**{'arch': arch, **options, **kwargs})

    build.floors = name in FLOORING
    build.arch, build.of = arch, cls
    # What gives the blocks' maps as they are: some families have a pyramid behind them.
    build.bare = dict(pyramid=None) if issubclass(cls, PlainBackbone) else {}
    return build


@pytest.fixture(params=[*FAMILIES, *MIXERS])
def build(request):
    return builder(request.param)


@pytest.fixture(params=FAMILIES)
def build_family(request):
    """For what a token mixer has no part in."""
    return builder(request.param)


def test_every_registered_family_is_held_to_the_contract():
    """TimmPyramid, which has no arch, in a file of its own."""
    assert {cls for cls, _ in FAMILIES.values()} == set(registry.FAMILIES) - {TimmPyramid}


def test_a_batch_without_images(build):
    """As of a process whose share of the last batch is empty."""
    backbone = build().train()
    images = torch.zeros(0, 3, 64, 96, requires_grad=True)
    outs = backbone(images)
    assert [out.shape[:2] for out in outs] == [(0, c) for c in backbone.out_channels]
    sum(out.sum() for out in outs).backward()
    assert images.grad.shape == images.shape
    grads = [p.grad for p in backbone.parameters() if p.grad is not None]
    assert grads and all(not grad.any() for grad in grads)


@pytest.mark.parametrize('size', [(32, 32), (33, 63), (64, 96), (75, 50), (224, 100)])
def test_maps_are_nchw_and_round_up_at_each_stride(build, size):
    backbone = build()
    outs = backbone(torch.randn(2, 3, *size))
    assert isinstance(outs, tuple)
    if build.floors:
        size = [n // 4 * 4 for n in size]
    for out, channels, stride in zip(
        outs, backbone.out_channels, backbone.out_strides, strict=True
    ):
        assert out.shape == (2, channels, *(-(-n // stride) for n in size))


@pytest.mark.parametrize('output_norm', [True, False])
def test_maps_are_contiguous_unless_channels_last_is_asked_for(build, output_norm):
    pyramids = [dict(pyramid=None), dict(pyramid='last')] if build.bare else []
    image = torch.randn(2, 3, 75, 50)  # which a pyramid is cut to
    for options in ({}, *pyramids):
        options['output_norm'] = output_norm
        default, as_computed = build(**options), build(**options, channels_last=True)
        as_computed.load_state_dict(default.state_dict())
        for out, other in zip(default(image), as_computed(image), strict=True):
            assert out.is_contiguous()
            assert torch.equal(out, other)
            assert other.stride(1) == 1


def test_mmsegs_stock_dmnet_trains_on_them(build_family):
    """Its head calls ``view`` on a map."""
    folder = Path(mmseg.__file__).parent / '.mim' / 'configs' / 'dmnet'
    cfg = Config.fromfile(folder / 'dmnet_r50-d8_4xb4-80k_ade20k-512x512.py').model.decode_head
    backbone = build_family()
    cfg.update(in_channels=backbone.out_channels[3], channels=8, norm_cfg=dict(type='BN'))
    head = mmseg.registry.MODELS.build(cfg)
    image = torch.randn(2, 3, 64, 64, requires_grad=True)
    outs = backbone(image)
    logits = head(outs)
    assert logits.shape == (2, 150, *outs[3].shape[2:])
    logits.square().sum().backward()
    assert image.grad.any()


@pytest.mark.parametrize('output_norm', [True, False])
@pytest.mark.parametrize('out_indices', [(0, 1, 2, 3), (1, 2, 3), (3,), (0, 2), (0,)])
def test_every_parameter_receives_a_gradient(build, out_indices, output_norm):
    """An unused one stops DistributedDataParallel."""
    backbone = build(out_indices=out_indices, output_norm=output_norm)
    outs = backbone(torch.randn(1, 3, 64, 64))
    assert len(outs) == len(out_indices)
    assert [o.shape[1] for o in outs] == list(backbone.out_channels)
    sum((out * torch.randn_like(out)).sum() for out in outs).backward()
    assert [n for n, p in backbone.named_parameters() if p.grad is None] == []
    norms = {n.split('.')[0] for n, _ in backbone.named_parameters() if n.startswith('norm')}
    assert norms == ({f'norm{i}' for i in out_indices} if output_norm else set())


def test_output_norm_normalises_each_pixel(build):
    out = build(**build.bare)(torch.randn(1, 3, 64, 64))[1]
    if build.of is not Vim:  # RMSNorm
        assert out.mean(1).abs().max() < 1e-5
    # LocalVim taps what a mixer adds, which epsilon is not small beside
    assert (out.square().mean(1) - 1).abs().max() < (0.15 if build.of is LocalVim else 0.05)


@pytest.mark.parametrize('frozen_stages', [-1, 0, 1, 4])
def test_frozen_stages(build, frozen_stages):
    backbone = build(frozen_stages=frozen_stages, drop_path_rate=0.5)
    assert backbone.train() is backbone
    for name, param in backbone.named_parameters():
        position = backbone.stage_and_block(name)
        if position is None:
            assert name.startswith(('norm', 'fpn'))
            frozen = name.startswith('norm') and int(name[4]) < frozen_stages
        elif position == (0, None):
            frozen = frozen_stages >= 0
        else:
            frozen = position[0] < frozen_stages
        assert param.requires_grad != frozen, name
    for i in range(4):
        training = {m.training for part in backbone.modules_of_stage(i) for m in part.modules()}
        assert training == {i >= frozen_stages}
    assert not any(m.training for m in backbone.eval().modules())


def test_checkpointing_gives_the_same_gradients_and_keeps_less(build):
    torch.manual_seed(0)
    plain, saving = build(), build(with_cp=True)
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


def test_drop_path_rises_linearly_over_all_blocks(build):
    backbone = build(drop_path_rate=0.4)
    rates = {}
    for name, module in backbone.named_modules():
        if name.endswith(('.drop_path', '.drop_path1')):  # the latter timm's
            rates[backbone.stage_and_block(name)] = getattr(module, 'drop_prob', 0.0)
    assert [rates[key] for key in sorted(rates)] == pytest.approx(np.linspace(0, 0.4, 5), abs=1e-6)


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg', 'mmengine'])
@pytest.mark.parametrize('prefix', ['', 'mambaout_mm.'])
def test_builds_by_name_from_any_scope(build_family, scope, prefix):
    name = f'{prefix}{build_family.of.__name__}'
    with DefaultScope.overwrite_default_scope(scope):
        backbone = MMENGINE_MODELS.build(dict(type=name, arch=build_family.arch))
    assert type(backbone) is build_family.of


@pytest.mark.parametrize(
    ('kwargs', 'words'),
    [
        (dict(arch='tinny'), r"unknown \w+ arch 'tinny'; known: "),
        (dict(arch=dict(depths=(1, 1, 1, 1))), 'arch needs depths and dim'),
        (dict(arch=dict(depht=5)), "unknown key 'depht' in arch; did you mean depths"),
        (dict(out_indices=(0, 4)), r'out of 0, 1, 2, 3; got \(0, 4\)'),
        (dict(out_indices=(2, 1)), 'out_indices must be ascending'),
        (dict(out_indices=()), 'out_indices must be ascending'),
        (dict(frozen_stages=5), 'frozen_stages must be between -1'),
        (dict(out_indices=(0,), frozen_stages=2), 'all 1 stages'),
    ],
)
def test_bad_arguments_are_named(build_family, kwargs, words):
    with pytest.raises(ValueError, match=words):
        build_family(**kwargs)


def test_a_missing_stage_is_named(build_family):
    arch = {name: value for name, value in build_family.arch.items() if name != 'directions'}
    with pytest.raises(ValueError, match='depths must be four positive'):
        build_family(arch=dict(arch, depths=(1, 1, 1)))


def test_mixed_precision_on_cpu(build):
    torch.manual_seed(0)
    backbone = build()
    image = torch.randn(2, 3, 96, 64)
    expected = backbone(image)
    with torch.autocast('cpu', torch.bfloat16):
        outs = backbone(image)
        sum(out.float().square().mean() for out in outs).backward()
    for out, reference in zip(outs, expected, strict=True):
        error = (out.float() - reference).abs().max() / reference.abs().max()
        assert error < 0.1
    for name, param in backbone.named_parameters():
        assert torch.isfinite(param.grad).all(), name


@pytest.mark.slow
@needs_torch('2.4', 'before, Dynamo breaks the graph where parameters are unpacked')
def test_compiles_to_one_graph_for_changing_sizes(build):
    torch._dynamo.reset()  # there is a limit to graphs, which other families' count against
    backbone = build(out_indices=(0, 1)).eval()
    compiled = torch.compile(backbone, backend='eager', fullgraph=True, dynamic=True)
    for size in ((64, 96), (75, 101)):
        image = torch.randn(1, 3, *size)
        for out, expected in zip(compiled(image), backbone(image), strict=True):
            assert torch.allclose(out, expected, atol=1e-5)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('with_cp', [False, True])
def test_mixed_precision_on_cuda(build, dtype, with_cp):
    backbone = build(with_cp=with_cp, drop_path_rate=0.1).cuda()
    image = torch.randn(2, 3, 96, 64, device='cuda')
    with torch.autocast('cuda', dtype):
        loss = sum(out.float().square().mean() for out in backbone(image))
    loss.backward()
    for name, param in backbone.named_parameters():
        assert torch.isfinite(param.grad).all(), name


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
def test_cuda_agrees_with_cpu(build):
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    backbone = build().eval()
    image = torch.randn(1, 3, 133, 97)
    with torch.no_grad():
        expected = backbone(image)
        outs = backbone.cuda()(image.cuda())
    for out, reference in zip(outs, expected, strict=True):
        error = (out.cpu() - reference).abs().max() / reference.abs().max()
        assert error < 1e-4
