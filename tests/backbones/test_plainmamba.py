"""PlainMamba against the official implementation's vectors."""

import pytest
import torch
from support_golden import Golden, official_keys, relative_error
from torch.nn import functional as F

from mambaout_mm import PlainMamba
from mambaout_mm.backbones.plainmamba import ARCHITECTURES, SnakeMixer
from mambaout_mm.ops.scan_orders import snake_moves

NUMBERS = dict(depths=(1, 1, 1, 1), dim=8, d_state=2, img_size=32)

# Of a 2x3 map: the token of each step, and the move that led there (0 start, 1 right, 2 left, 3 up,
# 4 down).
SNAKES = [
    ((0, 1, 2, 5, 4, 3), (0, 1, 1, 4, 2, 2)),
    ((3, 4, 5, 2, 1, 0), (0, 1, 1, 3, 2, 2)),
    ((0, 3, 4, 1, 2, 5), (0, 4, 1, 3, 1, 4)),
    ((5, 2, 1, 4, 3, 0), (0, 3, 2, 4, 2, 3)),
]


# The official float32 gradients are within 8.2e-6 of float64 (fp32_vs_fp64_max_abs in the files).
@pytest.mark.parametrize(
    ('dtype', 'limit', 'grad_limit'), [(torch.float32, 3e-5, 1e-4), (torch.float64, 5e-6, 1e-5)]
)
@pytest.mark.parametrize('name', ['plainmamba_a_72x112', 'plainmamba_b_64x64_nopatchconv'])
def test_reproduces_the_official_outputs_and_gradients(name, dtype, limit, grad_limit):
    """With ``a`` there are four layers, with ``b`` three, of which the last is that of tap 2."""
    golden = Golden(name)
    kwargs = golden.config['kwargs']
    shared = ('patch_size', 'img_size', 'num_convs_patch_embed', 'layers_with_dwconv')
    arch = dict(
        depths=(1, 1, 1, 1), dim=kwargs['embed_dims'], **{key: kwargs[key] for key in shared}
    )
    taps = kwargs['out_indices']
    backbone = PlainMamba(arch, scan='published', pyramid=None, out_indices=taps).eval()
    backbone.load_state_dict(backbone.convert_checkpoint(golden.state), strict=True)
    backbone.to(dtype)
    tokens = {}
    for i, layer in enumerate(backbone.layers):
        layer.register_forward_hook(lambda *call, i=i: tokens.update({f'layer{i}': call[2][0]}))
    image = golden.arrays['input'].to(dtype).requires_grad_()
    maps = backbone(image)
    assert len(tokens) == kwargs['num_layers']
    for layer, value in tokens.items():
        assert relative_error(value, golden.arrays[layer]) < limit, layer
    golden.loss({f'stage{i}': out for i, out in enumerate(maps)}, limit).backward()
    grads = {n: p.grad for n, p in backbone.named_parameters()}
    golden.check_gradients(
        image, grads | {'ln1.weight': grads[f'norm{taps[-1]}.weight']}, grad_limit
    )


def by_definition(mixer, tokens, published):
    """The mixer on tokens (6, dim) of a 2x3 map, step by step."""
    x, z = mixer.in_proj(tokens).chunk(2, dim=-1)  # (L, E)
    u = F.silu(mixer.conv2d(x.T.view(-1, 2, 3))).flatten(1).T
    dt, B, C = mixer.x_proj(u).split(mixer.parameter_sizes, dim=-1)
    A = -torch.exp(mixer.A_log)
    bias = mixer.dt_proj.bias * (2 if published else 1)
    y = torch.zeros_like(u)
    for order, moves in SNAKES:
        h = torch.zeros_like(A)  # (E, N)
        for t, (token, move) in enumerate(zip(order, moves, strict=True)):
            source = t if published else token
            step = F.softplus(mixer.dt_proj.weight @ dt[source] + bias)[:, None]
            B_t = B[source] + mixer.direction_Bs[move]
            h = torch.exp(step * A) * h + step * u[token][:, None] * B_t
            y[token] += h @ C[source] + mixer.D * u[token]
    return mixer.out_proj(y * F.silu(z))


@torch.no_grad()
def test_both_scans_are_what_they_are_defined_as():
    mixer = SnakeMixer(4, d_state=3, published=False).double()
    for param in mixer.parameters():
        param.normal_()
    tokens, moves = torch.randn(6, 4, dtype=torch.float64), snake_moves(2, 3)
    corrected, published = (by_definition(mixer, tokens, published) for published in (False, True))
    assert relative_error(corrected, published) > 0.1
    assert torch.allclose(mixer(tokens[None], (2, 3), moves)[0], corrected, rtol=1e-12)
    mixer.published = True
    assert torch.allclose(mixer(tokens[None], (2, 3), moves)[0], published, rtol=1e-12)


@pytest.mark.parametrize(('pyramid', 'strides'), [(None, (8,) * 4), ('taps', (4, 8, 16, 32))])
def test_maps_of_any_size_round_up(pyramid, strides):
    patch_size = 8 if pyramid is None else 16
    backbone = PlainMamba(dict(NUMBERS, patch_size=patch_size), pyramid=pyramid)
    assert backbone.out_strides == strides
    for out, stride in zip(backbone(torch.randn(2, 3, 33, 75)), strides, strict=True):
        assert out.shape == (2, 8, -(-33 // stride), -(-75 // stride))


@torch.no_grad()
def test_patches_are_padded_at_the_bottom_and_the_right():
    patch_embed = PlainMamba(NUMBERS).patch_embed.eval()
    image = torch.randn(1, 3, 40, 75)
    whole = patch_embed.projection(patch_embed.convs(patch_embed.stem(image)))
    patches = patch_embed(image)
    assert (whole.shape[2:], patches.shape[2:]) == ((2, 4), (3, 5))
    assert torch.allclose(patches[:, :, :2, :4], whole, atol=1e-6)


@pytest.mark.parametrize('variant', ARCHITECTURES)
def test_names_and_shapes_are_the_official_ones(variant):
    keys, official = official_keys(f'plainmamba_{variant}')
    official = {name.replace('ln1.', 'norm3.'): shape for name, shape in official.items()}
    with torch.device('meta'):  # no memory for the parameters
        backbone = PlainMamba(variant)
    more = ('norm0.', 'norm1.', 'norm2.', 'fpn')
    ours = {k: tuple(v.shape) for k, v in backbone.state_dict().items() if not k.startswith(more)}
    assert ours == official
    count = sum(p.numel() for k, p in backbone.named_parameters() if not k.startswith(more))
    assert count == keys['num_params_without_head']


def test_initial_weights_follow_the_official_code_and_mamba():
    backbone = PlainMamba('l1', out_indices=(0,))
    mixer = backbone.layers[2].mamba
    for table in (backbone.pos_embed, mixer.in_proj.weight, mixer.x_proj.weight):
        assert table.std().item() == pytest.approx(0.02, rel=0.05)
    assert mixer.direction_Bs.std().item() == pytest.approx(0.02, rel=0.3)
    assert mixer.in_proj.bias.abs().max() == mixer.out_proj.bias.abs().max() == 0
    assert mixer.conv2d.bias.abs().max() > 0  # PyTorch's own initialisation
    assert torch.equal(mixer.A_log[7].exp().round(), torch.arange(1.0, 17))
    assert torch.equal(mixer.D, torch.ones(384))
    steps = F.softplus(mixer.dt_proj.bias)
    assert 0.9e-3 < steps.min() < 2e-3 and 0.05 < steps.max() < 0.101
    assert mixer.dt_proj.weight.abs().max().item() == pytest.approx(12**-0.5, rel=1e-2)


@pytest.mark.parametrize(
    ('kwargs', 'words'),
    [
        (dict(scan='official'), "scan must be 'corrected' or 'published', got 'official'"),
        (dict(arch='l4'), "unknown PlainMamba arch 'l4'; known: l1, l2, l3"),
        (dict(dims=8), "unknown key 'dims' in arch; did you mean dim"),
        (dict(patch_size=7), 'patch_size must be a multiple of 2, .* got 7'),
        (dict(img_size=40), 'img_size 40 is no multiple of patch_size 16'),
        (dict(layers_with_dwconv=[4]), r'must be out of 0 to 3, .* got \(4,\)'),
        (dict(layers_with_dwconv=0), r'must be out of 0 to 3, .* got 0'),
        (dict(num_convs_patch_embed=-1), 'must be a number of convolutions, got -1'),
        (dict(d_state=0), 'd_state must be a positive integer, got 0'),
        (dict(dim=[8]), r'dim must be a positive integer, got \(8,\)'),
        (dict(depths=4), 'depths must be four positive integers, got 4'),
        (dict(img_size='64'), "img_size must be an integer or height and width, got '64'"),
        (dict(img_size=[64]), r'img_size must be an integer or height and width, got \(64,\)'),
    ],
)
def test_bad_numbers_are_named(kwargs, words):
    numbers = {k: kwargs.pop(k) for k in list(kwargs) if k not in ('scan', 'arch')}
    with pytest.raises(ValueError, match=words):
        PlainMamba(**{'arch': {**NUMBERS, **numbers}, **kwargs})
