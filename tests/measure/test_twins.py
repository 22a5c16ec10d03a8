"""Token mixers at the cost of MambaOut's convolution."""

import pytest

from mambaout_mm.backbones import MambaOut
from mambaout_mm.errors import UserError
from mambaout_mm.measure.twins import matched_twin

SMALL = dict(depths=(1, 1, 2, 1), dims=(16, 32, 48, 64))


@pytest.mark.parametrize('mixer', ['identity', 'ssm', 'ssm-causal', 'conv+ssm'])
def test_a_twin_costs_the_same(mixer):
    twin = matched_twin(SMALL, mixer, (64, 64))
    assert abs(twin.macs / twin.plain_macs - 1) < 0.01
    backbone = MambaOut(dict(SMALL, expansion_ratio=twin.expansion_ratio), mixer=mixer)
    assert twin.params == sum(p.numel() for p in backbone.parameters())
    assert (twin.expansion_ratio > 8 / 3) == (mixer == 'identity')


def test_a_twin_fits_other_sizes_of_images():
    small, large = (matched_twin(SMALL, 'ssm', size) for size in ((64, 64), (96, 160)))
    assert small.expansion_ratio == pytest.approx(large.expansion_ratio, rel=0.01)


def test_mambaout_is_its_own_twin():
    twin = matched_twin(SMALL, 'conv', (64, 64))
    assert twin.expansion_ratio == pytest.approx(8 / 3)
    assert (twin.macs, twin.params) == (twin.plain_macs, twin.plain_params)


def test_what_cannot_cost_the_same_says_so():
    with pytest.raises(UserError, match="no expansion ratio from 1 gives the mixer 'attention'"):
        matched_twin(SMALL, 'attention', (256, 256))
