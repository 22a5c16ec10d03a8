"""Networks of one resolution as pyramids: what is particular to them (see also test_pyramid.py)."""

import pytest
import torch
from torch.nn import functional as F

from mambaout_mm import LocalVim, PlainMamba, Vim
from mambaout_mm.backbones.plain import pyramid_level, resize_table

SMALL = dict(depths=(1, 1, 2, 1), dim=16)
FAMILIES = {'Vim': Vim, 'LocalVim': LocalVim, 'PlainMamba': PlainMamba}


@pytest.fixture(params=FAMILIES)
def build(request):
    """Builds a small network of one family."""
    return lambda **kwargs: FAMILIES[request.param](**{'arch': SMALL, **kwargs})


@pytest.mark.parametrize('pyramid', ['last', 'taps'])
@pytest.mark.parametrize('out_indices', [(0, 1, 2, 3), (0, 1), (3,), (2,)])
@pytest.mark.parametrize('output_norm', [True, False])
def test_every_parameter_receives_a_gradient(build, pyramid, out_indices, output_norm):
    backbone = build(pyramid=pyramid, out_indices=out_indices, output_norm=output_norm)
    outs = backbone(torch.randn(2, 3, 50, 64))
    strides = [(4, 8, 16, 32)[i] for i in out_indices]
    assert backbone.out_strides == tuple(strides)
    assert [o.shape for o in outs] == [(2, 16, -(-50 // s), 64 // s) for s in strides]
    sum((out * torch.randn_like(out)).sum() for out in outs).backward()
    assert [n for n, p in backbone.named_parameters() if p.grad is None] == []
    # 'last' runs all of the network, 'taps' up to the last map that is asked for
    assert len(backbone.layers) == (5 if pyramid == 'last' else (1, 2, 4, 5)[out_indices[-1]])


@pytest.mark.parametrize('with_cp', [False, True])
@pytest.mark.parametrize('cls', [Vim, LocalVim])
@pytest.mark.parametrize('pyramid', ['last', 'taps', None])
def test_what_mixers_add_can_be_tapped_in_mixed_precision(cls, pyramid, with_cp):
    torch.manual_seed(0)
    backbone = cls(SMALL, features='mixer', pyramid=pyramid, with_cp=with_cp)
    image = torch.randn(2, 3, 64, 64)
    expected = backbone(image)
    with torch.autocast('cpu', torch.bfloat16):
        outs = backbone(image)
        sum(out.float().square().mean() for out in outs).backward()
    for out, reference in zip(outs, expected, strict=True):
        assert (out.float() - reference).abs().max() < 0.1 * reference.abs().max()
    assert [n for n, p in backbone.named_parameters() if p.grad is None] == []
    if pyramid is None:
        assert {out.dtype for out in outs} == {torch.float32}  # of the output norms


def test_names_that_are_not_the_backbones_have_no_stage(build):
    backbone = build()
    for name in ('head.weight', 'decode_head.conv.weight', 'layers.99.norm.weight', 'fpn1.0.bias'):
        assert backbone.stage_and_block(name) is None
    assert backbone.stage_and_block('layers.3.norm.weight') == (2, 1)


def test_without_pyramid_the_taps_are_returned_as_they_are(build):
    backbone = build(pyramid=None, out_indices=(0, 2))
    outs = backbone(torch.randn(1, 3, 50, 64))
    assert backbone.out_strides == (16, 16)
    assert [o.shape for o in outs] == [(1, 16, 4, 4)] * 2
    assert not any(name.startswith('fpn') for name, _ in backbone.named_parameters())


def test_levels_come_from_the_last_map_or_from_their_own(build):
    torch.manual_seed(0)
    image = torch.randn(1, 3, 64, 64)
    plain = build(pyramid=None).eval()
    maps = plain(image)
    for pyramid, third in (('last', maps[3]), ('taps', maps[2])):
        backbone = build(pyramid=pyramid).eval()
        backbone.load_state_dict(plain.state_dict(), strict=False)
        outs = backbone(image)
        assert torch.allclose(outs[2], third, atol=1e-6)  # stride 16 passes through
        assert torch.allclose(outs[3], F.max_pool2d(maps[3], 2), atol=1e-6)


def test_a_level_is_what_its_stride_says():
    x = torch.randn(1, 8, 5, 7)
    shapes = [pyramid_level(s, 8, torch.nn.BatchNorm2d)(x).shape[2:] for s in (4, 8, 16, 32)]
    assert shapes == [(20, 28), (10, 14), (5, 7), (3, 4)]


def test_layer_ids_count_blocks(build):
    backbone = build()
    ids = {
        name: backbone.get_layer_depth(f'backbone.{name}', 'backbone.')
        for name in (name for name, _ in backbone.named_parameters())
    }
    assert {n for _, n in ids.values()} == {7}  # embeddings, five blocks, the head
    assert ids['pos_embed'] == (0, 7)
    for name, (layer, _) in ids.items():
        part = name.split('.')
        if part[0] == 'layers':
            assert layer == int(part[1]) + 1, name
        else:
            assert layer == (6 if name.startswith(('norm', 'fpn')) else 0), name
    assert backbone.get_layer_depth('roi_head.layers.0.x', 'backbone.') == (6, 7)
    stage = backbone.get_layer_depth('backbone.layers.3.norm.weight', 'backbone.', stage_wise=True)
    assert stage == (3, 6)


@pytest.mark.parametrize('pyramid', ['last', 'taps'])
def test_frozen_stages(build, pyramid):
    backbone = build(pyramid=pyramid, frozen_stages=2, drop_path_rate=0.5).train()
    for name, param in backbone.named_parameters():
        part = name.split('.')[0]
        if part == 'layers':
            frozen = int(name.split('.')[1]) < 2
        else:
            frozen = not part.startswith('fpn') and part not in ('norm2', 'norm3')
        assert param.requires_grad != frozen, name
    assert [layer.training for layer in backbone.layers] == [False, False, True, True, True]


def test_a_table_is_resized_as_a_map():
    table = torch.randn(1, 12, 5)
    assert resize_table(table, (3, 4), (3, 4)) is table
    resized = resize_table(table, (6, 5), (3, 4))
    expected = F.interpolate(
        table.view(1, 3, 4, 5).permute(0, 3, 1, 2), (6, 5), mode='bicubic', align_corners=False
    )
    assert torch.equal(resized.view(1, 6, 5, 5).permute(0, 3, 1, 2), expected)
    turned = resize_table(table, (4, 3), (3, 4))  # as many positions, another grid
    assert not torch.allclose(turned, table)
