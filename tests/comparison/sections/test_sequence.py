"""Tokens and receptive fields, against the paper's numbers and against gradients."""

import math

import pytest
import torch
from torch import nn

from mambaout_mm import (
    EfficientVMamba,
    LocalVim,
    LocalVMamba,
    MambaOut,
    PlainMamba,
    TimmPyramid,
    Vim,
    VMamba,
)
from mambaout_mm.comparison.catalogue import CONTROL, Network, entries_of
from mambaout_mm.comparison.records import Record, to_frame
from mambaout_mm.comparison.sections.receptive_field import erf_maps
from mambaout_mm.comparison.sections.sequence import (
    draw_ratios,
    receptive_fields,
    sequence_records,
)
from mambaout_mm.measure.effective_field import open_layer_scales


def test_lengths_are_those_of_the_paper():
    """Section 3: 4000 tokens on COCO, 4096 on ADE20K, overtaken at 2304 for D = 384."""
    records = {(r.quantity, r.size): r for r in sequence_records(CONTROL)}
    assert records['tokens', '224x224'].value == 196
    assert records['tokens', '800x1280'].value == 4000
    assert records['tokens', '512x2048'].value == 4096
    assert records['tokens / 6D', '800x1280'].value == pytest.approx(4000 / 2304)
    assert records['attention overtakes at', ''].value == pytest.approx(16 * math.sqrt(2304))


def test_timms_mambaout_sees_what_ours_sees():
    ours, stock = (
        [r.value for r in sequence_records(entry) if r.quantity == 'theoretical receptive field']
        for entry in entries_of(['MambaOut-T', 'MambaOut-T (timm)'])
    )
    assert ours == stock == [79, 231, 1111, 1719]


def test_odd_sizes_round_up_at_each_stage():
    entry = Network('f', 'Conv', dict(type='mambaout_mm.MambaOut', arch='femto'))
    tokens = [r.value for r in sequence_records(entry, ((33, 65),)) if r.quantity == 'tokens']
    assert tokens == [9 * 17, 5 * 9, 3 * 5, 2 * 3]


def test_what_is_not_known_says_so():
    (entry,) = entries_of(['TimmPyramid:resnet18'])
    fields = [r for r in sequence_records(entry) if r.quantity == 'theoretical receptive field']
    assert len(fields) == 4
    for record in fields:
        assert math.isnan(record.value) and record.note.startswith('not computed')


def support(model, stage, side):
    """Side of the square of pixels that reach a map's middle."""
    image = torch.rand(1, 3, side, side, dtype=torch.float64, requires_grad=True)
    out = model.double()(image)[stage]
    middle = out[0, :, out.shape[2] // 2, out.shape[3] // 2]
    weights = torch.rand(middle.shape, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((middle * weights).sum(), image)
    seen = gradient[0].abs().sum(0) > 0
    rows = seen.any(1).nonzero()
    return int(rows[-1] - rows[0]) + 1


SMALL = dict(depths=(1, 1, 2, 1), dims=(8, 16, 24, 32))


def make_all_weights_count(model):
    """Random weights large enough that nothing is lost to rounding."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=1.0)
    open_layer_scales(model)
    return model.eval()


@pytest.mark.parametrize(
    ('build', 'sides'),
    [
        (lambda: MambaOut(SMALL), (96, 192, 448)),
        (lambda: TimmPyramid('convnext_atto'), (128, 256)),
    ],
    ids=['MambaOut', 'ConvNeXt'],
)
def test_the_field_of_convolutions_is_the_support_of_the_gradient(build, sides):
    model = make_all_weights_count(build())
    fields = receptive_fields(model)
    for stage, side in enumerate(sides):
        assert fields[stage + 1] <= side, 'the image must hold the field'
        assert support(model, stage, side) == fields[stage + 1]


def test_the_field_of_windows_is_a_bound():
    model = make_all_weights_count(TimmPyramid('swin_tiny_patch4_window7_224'))
    fields = receptive_fields(model)
    for stage, side in enumerate((112, 224)):
        assert 28 <= support(model, stage, side) <= fields[stage + 1] <= side


def test_a_scan_and_attention_reach_the_whole_image():
    for cls in (VMamba, LocalVMamba, EfficientVMamba):
        small = cls(SMALL)
        assert receptive_fields(small) == dict.fromkeys((1, 2, 3, 4), math.inf)
        assert support(small.eval(), 0, 64) == 64
    notes = [r.note for r in sequence_records(CONTROL) if r.quantity.startswith('theoretical')]
    assert notes == ['the whole image']


@pytest.mark.parametrize('cls', [Vim, LocalVim, PlainMamba])
def test_a_plain_network_is_one_sequence_that_sees_everything(cls):
    small_arch = dict(depths=(1, 1, 1, 1), dim=16)
    small = cls(small_arch, pyramid=None, out_indices=(3,))
    assert receptive_fields(cls(small_arch)) == dict.fromkeys((1, 2, 3, 4), math.inf)
    assert support(small.eval(), 0, 64) == 64
    kind = f'mambaout_mm.{cls.__name__}'
    entry = Network('p', '', dict(type=kind, arch=small_arch))
    records = list(sequence_records(entry, ((33, 65),)))
    assert [r.value for r in records if r.quantity == 'tokens'] == [3 * 5]
    assert {r.setting for r in records} == {'stage 3'}
    assert [erf.stage for erf in erf_maps(entry, 64, images=1)] == [3]


def test_fields_are_those_of_the_stages_that_are_returned():
    entry = Network(
        'f', 'Conv', dict(type='mambaout_mm.MambaOut', arch='femto', out_indices=(1, 3))
    )
    fields = receptive_fields(MambaOut('femto'))
    found = {
        r.setting: r.value for r in sequence_records(entry) if r.quantity.startswith('theoretical')
    }
    assert found == {'stage 2': fields[2], 'stage 4': fields[4]}


def test_a_norm_over_the_whole_map_is_not_taken_for_a_convolution():
    assert receptive_fields(TimmPyramid('convnextv2_atto')) is None


def test_measuring_leaves_no_hook_behind():
    model = MambaOut(SMALL)
    receptive_fields(model)
    assert not any(module._forward_hooks for module in model.modules())


def test_stages_stand_at_their_strides():
    record = Record(
        section='sequence',
        backbone='ViT-S/16',
        mixer='Attn',
        quantity='tokens / 6D',
        setting='stage 3',
        size='800x1280',
        value=1.7,
        unit='',
        origin='computed',
    )
    (axis,) = draw_ratios(to_frame([record])).axes
    line, overtaken = axis.get_lines()
    assert line.get_xdata().tolist() == [3] and overtaken.get_ydata() == [1, 1]
