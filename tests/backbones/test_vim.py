"""Vim against the official implementation's vectors."""

import pytest
import torch
from support_golden import Golden, official_keys
from torch import nn

from mambaout_mm import Vim
from mambaout_mm.backbones.vim import ARCHITECTURES, with_middle, without_middle

SMALL = dict(depths=(1, 1, 1, 1), dim=24)
# The official float32 gradients are within 1.3e-5 of float64 (fp32_vs_fp64_max_abs in the files).
DTYPES = [(torch.float32, 3e-5, 1e-4), (torch.float64, 5e-6, 2e-5)]

# The modes of vim_b, and of whose outputs its gradients are the sum.
MODES = {
    'mixer': dict(features='mixer', pyramid=None, output_norm=False),
    'residual': dict(pyramid=None, output_norm=False),
    'residual_norm': dict(pyramid=None),
    'residual_fpn': dict(output_norm=False),
}


@pytest.mark.parametrize(('dtype', 'limit', 'grad_limit'), DTYPES)
def test_reproduces_the_official_classifier(dtype, limit, grad_limit):
    """Tokens with the middle class token, its feature and the logits; a grid that is no square."""
    golden = Golden('vim_a_cls_64x96')
    backbone = Vim(dict(SMALL, img_size=(64, 96)), out_indices=(3,), pyramid=None).eval()
    backbone.load_state_dict(backbone.convert_checkpoint(golden.state), strict=True)
    backbone.to(dtype)
    image = golden.arrays['input'].to(dtype).requires_grad_()
    tokens, size = backbone.embed(image)
    for layer in backbone.layers:
        tokens, _ = layer(tokens, size)
    tokens = backbone.norm3(tokens)
    middle = tokens[:, 12]
    head = {k: golden.state[f'head.{k}'].to(dtype) for k in ('weight', 'bias')}
    logits = nn.functional.linear(middle, **head)
    golden.loss(dict(tokens=tokens, out=middle, logits=logits), limit).backward()
    grads = {n: p.grad for n, p in backbone.named_parameters()}
    golden.check_gradients(image, grads | {'norm_f.weight': grads['norm3.weight']}, grad_limit)
    (out,) = backbone(image)  # the map is all but the class token
    rest = torch.cat((tokens[:, :12], tokens[:, 13:]), dim=1)
    assert torch.equal(out.flatten(2).transpose(1, 2), rest)


@pytest.mark.parametrize(('dtype', 'limit', 'grad_limit'), DTYPES)
def test_reproduces_the_official_segmentation_features(dtype, limit, grad_limit):
    golden = Golden('vim_b_seg_80x80')
    image = golden.arrays['input'].to(dtype).requires_grad_()
    loss, grads = 0, {}
    for mode, options in MODES.items():
        backbone = Vim(dict(SMALL, img_size=80), class_token=False, **options).eval()
        missing, _ = backbone.load_state_dict(
            backbone.convert_checkpoint(golden.state), strict=False
        )
        assert [name for name in missing if not name.startswith('norm')] == []
        backbone.to(dtype)
        outs = {f'{mode}.stage{i}': out for i, out in enumerate(backbone(image))}
        if mode == 'residual_fpn':
            # The official pooling rounds 5 / 2 down, the backbones' contract rounds up.
            assert outs['residual_fpn.stage3'].shape[2:] == (3, 3)
            outs['residual_fpn.stage3'] = outs['residual_fpn.stage3'][:, :, :2, :2]
        if mode == 'residual_norm':  # only the last is stored, the others have no norm
            outs = {'residual_norm.stage3': outs['residual_norm.stage3']}
        loss = loss + golden.loss(outs, limit)
        grads[mode] = dict(backbone.named_parameters())
    loss.backward()
    totals = {}
    for params in grads.values():
        for name, param in params.items():
            if param.grad is not None:
                totals[name] = totals.get(name, 0) + param.grad
    golden.check_gradients(image, totals, grad_limit)


@pytest.mark.parametrize('variant', ARCHITECTURES)
def test_names_and_shapes_are_the_official_ones(variant):
    keys, official = official_keys(f'vim_{variant}')
    with torch.device('meta'):
        backbone = Vim(variant, output_norm=False, pyramid=None)
    ours = {k: tuple(v.shape) for k, v in backbone.state_dict().items()}
    norm = official.pop('norm_f.weight')
    assert ours == official
    count = sum(p.numel() for p in backbone.parameters())
    assert count + norm[0] == keys['num_params_without_head']


def test_a_token_goes_to_the_middle_and_comes_back():
    tokens = torch.arange(5.0).view(1, 5, 1)
    longer = with_middle(tokens, torch.full((1, 1, 1), 9.0))
    assert longer.flatten().tolist() == [0, 1, 9, 2, 3, 4]
    rest, token = without_middle(longer)
    assert torch.equal(rest, tokens) and token.item() == 9


def test_initial_weights_follow_the_official_code():
    backbone = Vim('tiny', out_indices=(0,))
    mixer = backbone.layers[0].mixer
    assert torch.equal(mixer.A_b_log[5].exp().round(), torch.arange(1.0, 17))
    steps = nn.functional.softplus(mixer.dt_proj_b.bias)
    assert 0.9e-3 < steps.min() < 2e-3 and 0.05 < steps.max() < 0.101
    assert backbone.pos_embed.std().item() == pytest.approx(0.02, rel=0.05)
    # Kaiming for 384 inputs is uniform up to 384^-0.5, over the root of 24 layers
    assert mixer.out_proj.weight.abs().max().item() == pytest.approx((384 * 24) ** -0.5, rel=1e-2)
    assert mixer.in_proj.weight.abs().max().item() == pytest.approx(192**-0.5, rel=1e-2)


def test_bad_numbers_are_named():
    with pytest.raises(ValueError, match='img_size 100 is no multiple of patch_size 16'):
        Vim(dict(SMALL, img_size=100))
    with pytest.raises(ValueError, match="unknown Vim arch 'large'; known: tiny, small, base"):
        Vim('large')
    with pytest.raises(ValueError, match='arch needs depths and dim, got only'):
        Vim(dict(depths=(1, 1, 1, 1)))
