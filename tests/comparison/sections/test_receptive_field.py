"""Effective receptive fields of small networks, their images and their picture."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from mambaout_mm.comparison.catalogue import Network, build_backbone, entries_of
from mambaout_mm.comparison.sections.receptive_field import (
    LEVELS,
    ErfMap,
    draw_erf,
    erf_image,
    erf_maps,
    erf_records,
    erf_scale,
)
from mambaout_mm.comparison.sections.sequence import receptive_fields
from mambaout_mm.measure.effective_field import open_layer_scales, side_holding

FEMTO = Network('femto', 'Conv', dict(type='mambaout_mm.MambaOut', arch='femto'))


@pytest.fixture(scope='module')
def femto_maps():
    return erf_maps(FEMTO, 96, images=2)


def test_nothing_outside_of_the_theoretical_field_is_seen(femto_maps):
    fields = receptive_fields(build_backbone(FEMTO))
    for erf in femto_maps:
        field = fields[erf.stage]
        assert erf.values.shape == (96, 96) and erf.values.max() == 1
        for seen in (erf.values.any(0), erf.values.any(1)):
            assert np.ptp(seen.nonzero()) + 1 <= field


def test_what_is_seen_grows_with_the_stage(femto_maps):
    sides = [side_holding(erf.values, 50) for erf in femto_maps]
    assert sides == sorted(sides) and sides[0] < sides[-1]


def test_maps_are_the_same_every_time(femto_maps):
    again = erf_maps(FEMTO, 96, images=2)
    for one, two in zip(femto_maps, again, strict=True):
        np.testing.assert_allclose(one.values, two.values, rtol=1e-4, atol=1e-7)


def test_output_norms_do_not_hide_the_field(femto_maps):
    """The sum over all channels of a LayerNorm is constant; its positive part is not."""
    bare = Network('bare', 'Conv', dict(FEMTO.backbone, output_norm=False))
    for one, two in zip(femto_maps, erf_maps(bare, 96, images=2), strict=True):
        assert side_holding(one.values, 50) == pytest.approx(side_holding(two.values, 50), abs=8)


def test_layer_scales_are_opened_for_random_weights_alone(tmp_path):
    (entry,) = entries_of(['TimmPyramid:convnext_atto'])
    model = build_backbone(entry)
    closed = [p for name, p in model.named_parameters() if name.endswith('gamma')]
    assert closed and all((p < 1e-5).all() for p in closed)
    path = tmp_path / 'weights.pth'
    torch.save(model.state_dict(), path)
    (random, *_), (loaded, *_) = (erf_maps(entry, 64, 1, weights) for weights in (None, str(path)))
    assert side_holding(loaded.values, 95) < side_holding(random.values, 95)
    assert loaded.weights == str(path)
    open_layer_scales(model)
    assert all((p == 1).all() for p in closed)


def test_records_say_which_weights(femto_maps):
    records = list(erf_records(FEMTO, femto_maps))
    assert [(r.setting, r.quantity) for r in records[:2]] == [
        ('stage 1', 'side holding 50 % of the gradient'),
        ('stage 1', 'side holding 95 % of the gradient'),
    ]
    assert {r.note for r in records} == {'random weights, layer scales at 1'}


def test_an_erf_image_is_small_and_logarithmic():
    values = np.zeros((256, 512))
    values[128, 256] = 1.0
    address = erf_image(values)
    assert address.startswith('data:image/png;base64,') and len(address) < 2000
    image = decode(address)
    assert image.size == (96, 48)
    levels = np.asarray(image)
    assert levels.max() == LEVELS - 1 and np.median(levels) == 0
    ramp = np.asarray(decode(erf_scale()))[0].astype(int)
    assert np.abs(np.diff(ramp)).max() <= 1 and (ramp[0], ramp[-1]) == (0, 31)


def decode(address):
    return Image.open(io.BytesIO(base64.b64decode(address.split(',')[1])))


def test_the_gallery_has_a_place_for_each_stage():
    def erf(name, stage):
        return ErfMap(name, stage, '8x8', 'random', np.eye(8))

    figure = draw_erf([*(erf('a', i) for i in (1, 2, 3, 4)), erf('ViT', 3)])
    shown = [bool(axis.images) for axis in figure.axes]
    assert shown == [True] * 4 + [False, False, True, False]
    assert '8x8' in figure.get_suptitle() and 'random' in figure.get_suptitle()
