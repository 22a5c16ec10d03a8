"""Effective receptive fields: of maps made by hand, and of small networks."""

import numpy as np
import pytest
import torch

from mambaout_mm.comparison.catalogue import Entry, build_backbone, entries_of
from mambaout_mm.comparison.erf import (
    ErfMap,
    erf_maps,
    erf_records,
    open_layer_scales,
    side_holding,
)
from mambaout_mm.comparison.sequence import receptive_fields

FEMTO = Entry('femto', 'Conv', dict(type='mambaout_mm.MambaOut', arch='femto'))


def map_of(values):
    return ErfMap('a', 1, f'{values.shape[0]}x{values.shape[1]}', 'random', values)


def test_side_of_a_square_that_holds_a_share():
    values = np.zeros((9, 9))
    values[3:6, 3:6] += 1.0  # a block of 3, and one of 5 around it: 18 and 16 more
    values[2:7, 2:7] += 1.0
    assert side_holding(map_of(values), 100 * 18 / 34) == 3
    assert side_holding(map_of(values), 100 * 19 / 34) == 5
    assert side_holding(map_of(values), 100) == 5


def test_the_square_is_where_the_gradient_is():
    values = np.zeros((9, 12))
    values[1:4, 8:11] = 1.0
    assert side_holding(map_of(values), 100) == 3


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
    sides = [side_holding(erf, 50) for erf in femto_maps]
    assert sides == sorted(sides) and sides[0] < sides[-1]


def test_maps_are_the_same_every_time(femto_maps):
    again = erf_maps(FEMTO, 96, images=2)
    for one, two in zip(femto_maps, again, strict=True):
        np.testing.assert_allclose(one.values, two.values, rtol=1e-4, atol=1e-7)


def test_output_norms_do_not_hide_the_field(femto_maps):
    """The sum over all channels of a LayerNorm is constant; its positive part is not."""
    bare = Entry('bare', 'Conv', dict(FEMTO.backbone, output_norm=False))
    for one, two in zip(femto_maps, erf_maps(bare, 96, images=2), strict=True):
        assert side_holding(one, 50) == pytest.approx(side_holding(two, 50), abs=8)


def test_layer_scales_are_opened_for_random_weights_alone(tmp_path):
    (entry,) = entries_of(['TimmPyramid:convnext_atto'])
    model = build_backbone(entry)
    closed = [p for name, p in model.named_parameters() if name.endswith('gamma')]
    assert closed and all((p < 1e-5).all() for p in closed)
    path = tmp_path / 'weights.pth'
    torch.save(model.state_dict(), path)
    (random, *_), (loaded, *_) = (erf_maps(entry, 64, 1, weights) for weights in (None, str(path)))
    assert side_holding(loaded, 95) < side_holding(random, 95)
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
