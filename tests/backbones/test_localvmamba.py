"""LocalVMamba against the official implementation's vectors."""

import pytest
import torch
from support_golden import Golden, official_keys

from mambaout_mm import LocalVMamba
from mambaout_mm.backbones.localvmamba import ARCHITECTURES

SMALL = dict(depths=(1, 1, 1, 1), dims=(8, 8, 8, 8))


def backbone_of(golden, scan):
    kwargs = golden.config['kwargs']
    arch = dict(
        depths=kwargs['depths'],
        dims=[golden.config['outputs'][f'stage{i}'][1] for i in range(4)],
        directions=kwargs['directions'],
        d_state=kwargs.get('ssm_d_state', 16),
    )
    backbone = LocalVMamba(arch, scan=scan).eval()
    backbone.load_state_dict(backbone.convert_checkpoint(golden.state), strict=True)
    return backbone


# golden/README: at these limits a 2 % change of any one parameter tensor fails.
@pytest.mark.parametrize(
    ('dtype', 'limit', 'grad_limit'), [(torch.float32, 3e-5, 1e-4), (torch.float64, 5e-6, 5e-6)]
)
@pytest.mark.parametrize(
    ('file', 'scan'),
    [
        ('localvmamba_a_60x88', 'published'),
        ('localvmamba_b_square64', 'published'),
        ('localvmamba_b_square64', 'corrected'),  # the same on square maps
    ],
)
def test_reproduces_the_official_outputs_and_gradients(file, scan, dtype, limit, grad_limit):
    golden = Golden(file)
    backbone = backbone_of(golden, scan).to(dtype)
    image = golden.arrays['input'].to(dtype).requires_grad_()
    outs = {f'stage{i}': out for i, out in enumerate(backbone(image))}
    golden.loss(outs, limit).backward()
    grads = {name: param.grad for name, param in backbone.named_parameters()}
    official = {f'out{name}': grad for name, grad in grads.items() if name.startswith('norm')}
    golden.check_gradients(image, grads | official, grad_limit)


def test_the_corrected_scan_is_the_one_with_the_true_inverse():
    golden = Golden('localvmamba_a_60x88')
    with torch.no_grad():
        outs = backbone_of(golden, 'corrected')(golden.arrays['input'])
    for i, out in enumerate(outs):
        expected = golden.arrays[f'fixed_inverse.stage{i}']
        assert (out - expected).abs().max() < 3e-5 * expected.abs().max(), f'stage {i}'
        published = golden.arrays[f'stage{i}']
        assert (out - published).abs().max() > 0.1 * published.abs().max(), f'stage {i}'


@pytest.mark.parametrize('variant', ARCHITECTURES)
def test_names_shapes_and_directions_are_the_official_ones(variant):
    keys, official = official_keys(f'localvmamba_{variant}')
    with torch.device('meta'):
        backbone = LocalVMamba(variant, output_norm=False)
    assert {k: tuple(v.shape) for k, v in backbone.state_dict().items()} == official
    assert sum(p.numel() for p in backbone.parameters()) == keys['num_params_without_head']
    blocks = [block for layer in backbone.layers for block in layer['blocks']]
    assert [list(block.op.directions) for block in blocks] == keys['directions']


def test_a_dict_without_directions_has_the_ones_without_a_search():
    layers = LocalVMamba(SMALL).layers
    directions = {tuple(layer['blocks'][0].op.directions) for layer in layers}
    assert directions == {('h', 'h_flip', 'w2', 'w2_flip')}


def test_runs_in_bfloat16_throughout():
    """The scan's result is float32, which the gate's parameters are not."""
    backbone = LocalVMamba(SMALL).bfloat16()
    outs = backbone(torch.randn(1, 3, 64, 64).bfloat16())
    assert all(out.dtype == torch.bfloat16 and out.isfinite().all() for out in outs)


@pytest.mark.parametrize(
    ('arch', 'words'),
    [
        (dict(d_state=0), 'd_state must be a positive integer, got 0'),
        (dict(ssm_ratio=0.5), 'ssm_ratio must leave at least 8 channels, .* got 0.5'),
        (dict(direction=()), "unknown key 'direction' in arch; did you mean directions"),
        (
            dict(directions=[['h'] * 4]),
            'four names for each of the 4 blocks, got',
        ),
        (dict(directions=[['h', 'v']] * 4), r"of a block must be four of h, .* got \['h', 'v'\]"),
        (dict(directions=4), 'four names for each of the 4 blocks, got 4'),
        (dict(directions=['h v w2 w3'] * 4), "of a block must be four of h, .* got 'h v w2 w3'"),
    ],
)
def test_bad_numbers_are_named(arch, words):
    with pytest.raises(ValueError, match=words):
        LocalVMamba(dict(SMALL, **arch))


def test_an_unknown_scan_is_named():
    with pytest.raises(ValueError, match="scan must be 'corrected' or 'published', got 'vertical'"):
        LocalVMamba(SMALL, scan='vertical')
