"""LocalVim against the official implementation's vectors."""

import pytest
import torch
from support import needs_torch
from support_golden import Golden, official_keys
from torch import nn

from mambaout_mm import LocalVim
from mambaout_mm.backbones.local_mamba import DEFAULT
from mambaout_mm.backbones.localvim import ARCHITECTURES

DTYPES = [(torch.float32, 3e-5, 1e-4), (torch.float64, 5e-6, 5e-6)]
rounds_alike = needs_torch('2.4', 'timm resizes the table in float32; 2.1 rounds there otherwise')


def small(golden, **numbers):
    directions = golden.config['kwargs']['directions']
    directions += [['h'] * 4] * (4 - len(directions))
    return dict(
        depths=(1, 1, 1, 1), dim=16, d_state=8, img_size=64, directions=directions, **numbers
    )


@pytest.mark.parametrize(
    ('dtype', 'limit', 'grad_limit'),
    [DTYPES[0], pytest.param(*DTYPES[1], marks=rounds_alike)],
)
def test_reproduces_the_official_dense_features(dtype, limit, grad_limit):
    """LayerNorm blocks, rotary embedding, a grid of 4x4 used at 4x6, the defect of 'v'."""
    golden = Golden('localvim_a_backbone_64x96')
    backbone = LocalVim(small(golden, rms_norm=False), scan='published', pyramid=None).eval()
    backbone.load_state_dict(backbone.convert_checkpoint(golden.state), strict=True)
    backbone.to(dtype)
    image = golden.arrays['input'].to(dtype).requires_grad_()
    outs = {f'stage{i}': out for i, out in enumerate(backbone(image))}
    golden.loss(outs, limit).backward()
    grads = {n: p.grad for n, p in backbone.named_parameters()}
    golden.check_gradients(image, grads, grad_limit)


@needs_torch('2.4', 'F.rms_norm in the test')
@pytest.mark.parametrize(('dtype', 'limit', 'grad_limit'), DTYPES)
def test_reproduces_the_official_classifier(dtype, limit, grad_limit):
    """Three RMSNorm blocks with the class token in the middle of every order."""
    golden = Golden('localvim_b_cls_64x64')
    arch = small(golden, rope=False, class_token=True)
    backbone = LocalVim(arch, features='residual', out_indices=(2,), pyramid=None).eval()
    backbone.output_norm = False
    missing, unexpected = backbone.load_state_dict(
        backbone.convert_checkpoint(golden.state), strict=False
    )
    assert (missing, unexpected) == (['norm2.weight', 'norm2.bias'], [])
    backbone.to(dtype)
    image = golden.arrays['input'].to(dtype).requires_grad_()
    norm = golden.state['norm_f.weight'].to(dtype).requires_grad_()
    tokens, size = backbone.embed(image)
    for layer in backbone.layers:
        tokens, _ = layer(tokens, size)
    out = nn.functional.rms_norm(tokens, (16,), norm, 1e-5)[:, 8]
    head = {k: golden.state[f'head.{k}'].to(dtype) for k in ('weight', 'bias')}
    golden.loss(dict(out=out, logits=nn.functional.linear(out, **head)), limit).backward()
    grads = {n: p.grad for n, p in backbone.named_parameters()}
    golden.check_gradients(image, grads | {'norm_f.weight': norm.grad}, grad_limit)


@pytest.mark.parametrize(('size', 'same'), [((64, 64), True), ((64, 96), False)])
def test_the_switch_matters_on_maps_that_are_not_square(size, same):
    golden = Golden('localvim_a_backbone_64x96')
    arch = small(golden)
    corrected, published = (LocalVim(arch, scan=scan) for scan in ('corrected', 'published'))
    published.load_state_dict(corrected.state_dict())
    image = torch.randn(1, 3, *size)
    with torch.no_grad():
        outs = corrected(image)[2], published(image)[2]
    assert torch.allclose(*outs, atol=1e-5) == same


@pytest.mark.parametrize('variant', ARCHITECTURES)
def test_names_and_shapes_are_the_official_ones(variant):
    keys, official = official_keys(f'localvim_{variant}')
    with torch.device('meta'):
        backbone = LocalVim(variant, output_norm=False, pyramid=None)
    ours = {k: tuple(v.shape) for k, v in backbone.state_dict().items()}
    norm = official.pop('norm_f.weight')
    assert ours == official
    count = sum(p.numel() for p in backbone.parameters())
    assert count + norm[0] == keys['num_params_without_head']
    assert [list(layer.mixer.directions) for layer in backbone.layers] == keys['directions']


def test_the_rotary_tables_are_the_official_ones():
    golden = Golden('localvim_a_backbone_64x96')
    rope = LocalVim(small(golden)).rope
    for name in ('freqs_cos', 'freqs_sin'):
        assert torch.allclose(getattr(rope, name), golden.state[f'rope.{name}'], atol=1e-6)


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (dict(scan='official'), "scan must be 'corrected' or 'published', got 'official'"),
        (dict(features='stream'), "features must be 'residual' or 'mixer', got 'stream'"),
        (dict(pyramid='fpn'), "pyramid must be 'last', 'taps' or None, got 'fpn'"),
        (dict(arch=dict(directions=[DEFAULT])), 'four names for each of the 4 blocks, got'),
        (dict(arch=dict(directions=[['w3'] * 4] * 4)), "four of h, h_flip, .* got .'w3'"),
        (dict(arch=dict(dim=2, rope=False)), 'dim must be at least 4 for the gate, got 2'),
        (dict(arch=dict(class_token=True)), 'class_token needs rope=False'),
        (dict(arch=dict(dim=18)), 'rope needs a dim that 4 divides, got 18'),
        (dict(arch=dict(patch_size=8)), 'a pyramid needs tokens at stride 16, patch_size 8'),
    ],
)
def test_bad_arguments_are_named(options, words):
    arch = dict(depths=(1, 1, 1, 1), dim=16) | options.pop('arch', {})
    with pytest.raises(ValueError, match=words):
        LocalVim(arch, **options)
