"""The fit of exponents on timings made by hand, and series that cannot go on."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from mambaout_mm.measure import growth
from mambaout_mm.measure.growth import (
    Conditions,
    Series,
    fit_exponent,
    measure_size,
    tokens_at,
    too_late,
)
from mambaout_mm.ops.torch_versions import OutOfMemoryError

SIDES = (224, 320, 448, 640, 896, 1280, 2048)
TOKENS = [tokens_at(side, side) for side in SIDES]
DIM = 384
LINEAR = [24 * DIM**2 * tokens * 12 / 1e11 for tokens in TOKENS]  # seconds at 100 GFLOP/s
QUADRATIC = [4 * DIM * tokens**2 * 12 / 1e11 for tokens in TOKENS]


@pytest.mark.parametrize('overhead', [0.0, 0.02])
def test_linear_networks_have_an_exponent_near_one(overhead):
    fit = fit_exponent(TOKENS, [overhead + seconds for seconds in LINEAR])
    assert fit.exponent == pytest.approx(1.0, abs=0.05)
    assert fit.points == 4


def test_attention_has_an_exponent_above_one():
    fit = fit_exponent(TOKENS, [a + b for a, b in zip(LINEAR, QUADRATIC, strict=True)])
    assert 1.3 < fit.exponent < 2
    assert fit_exponent(TOKENS, QUADRATIC).exponent == pytest.approx(2.0)


def test_noise_shows_in_the_error():
    noise = np.random.default_rng(0).normal(1, 0.05, len(TOKENS))
    exact, noisy = fit_exponent(TOKENS, LINEAR), fit_exponent(TOKENS, list(LINEAR * noise))
    assert exact.error == pytest.approx(0, abs=1e-9)
    assert 0.005 < noisy.error < 0.1
    assert abs(noisy.exponent - 1) < 3 * noisy.error


def test_few_sizes_have_no_fit():
    assert fit_exponent(TOKENS[:3], LINEAR[:3]) is None


class Net(nn.Module):
    """A network that fails from some size on."""

    def __init__(self, limit=math.inf, error=OutOfMemoryError):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.limit, self.error = limit, error

    def forward(self, x):
        if x.shape[-1] > self.limit:
            raise self.error('no more of it\nmore lines')
        return (self.conv(x).relu(),)


def series(**networks):
    return [Series(name, net.eval()) for name, net in networks.items()]


def measure(all_series, side, passes='forward', seconds_left=60.0):
    return measure_size(all_series, (side, side), Conditions(passes, 'fp32', 'cpu'), seconds_left)


def test_a_point_has_time_spread_and_memory():
    points = measure(series(a=Net(), b=Net()), 64)
    seconds = points['a'].seconds
    assert 0 < seconds.p10 <= seconds.median <= seconds.p90
    assert points['b'].peak >= 0
    assert points['a'].kept is None


def test_bytes_for_the_backward_pass_are_counted():
    points = measure(series(a=Net()), 64, 'forward+backward')
    # The image, and what relu gives: 4 bytes each for 3 x 64 x 64 and 4 x 62 x 62.
    assert points['a'].kept == 4 * (3 * 64 * 64 + 4 * 62 * 62)


@pytest.mark.parametrize(
    ('error', 'reason'),
    [
        (OutOfMemoryError, 'out of memory'),
        (ValueError, 'failed: ValueError: no more of it'),
    ],
)
def test_a_series_that_fails_ends_and_the_others_go_on(error, reason):
    _, bad = both = series(good=Net(), bad=Net(48, error))
    assert set(measure(both, 32)) == {'good', 'bad'}
    for side in (64, 96):
        assert set(measure(both, side)) == {'good'}
        assert bad.ended == reason


def test_what_torch_says_on_a_cpu_is_out_of_memory():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50)
    assert growth.reason_of(caught.value) == 'out of memory'


def test_a_series_that_fails_while_it_is_timed_ends_alone(monkeypatch):
    _, bad = both = series(good=Net(), bad=Net())
    calls = [0]

    def third_fails(x, forward=bad.model.forward):
        calls[0] += 1
        if calls[0] == 4:  # after the two calls that are not timed and a round
            raise OutOfMemoryError('no more of it')
        return forward(x)

    bad.model.forward = third_fails
    assert set(measure(both, 64)) == {'good'}
    assert bad.ended == 'out of memory'


def test_gradients_are_part_of_the_peak_and_are_not_left_behind():
    net = Net()
    net.wide = nn.Linear(1000, 1000)  # 4 MB of gradients
    net.forward = lambda x: (net.wide(x.flatten()[:1000]),)
    points = measure(series(a=net), 64, 'forward+backward')
    assert points['a'].peak > 4e6
    assert all(p.grad is None for p in net.parameters())


def test_equal_tokens_at_two_sizes_are_no_division_by_zero():
    (only,) = all_series = series(a=Net())
    only.tokens, only.seconds, only.peaks = [16, 16], [1e-4, 2e-4], [1.0, 2.0]
    assert measure(all_series, 128)


def test_a_series_ends_before_it_passes_the_time():
    slow, quick = both = series(slow=Net(), quick=Net())
    for network, seconds in ((slow, 1.0), (quick, 1e-4)):
        network.tokens, network.seconds = [4, 16], [seconds / 4, seconds]
        network.peaks = [0.0, 0.0]
    # 64 tokens: slow would take 5 times 4 s
    assert set(measure(both, 128, seconds_left=10.0)) == {'quick'}
    assert slow.ended == too_late()


def test_a_series_ends_before_memory_does(monkeypatch):
    monkeypatch.setattr(growth, 'memory_free', lambda device: 10e9)
    (only,) = all_series = series(a=Net())
    only.tokens, only.seconds, only.peaks = [4, 16], [1e-4, 4e-4], [2e9, 8e9]
    assert measure(all_series, 128) == {}
    assert only.ended == 'out of memory: about 32 GB are needed, 10 GB free'


def test_a_large_first_size_is_not_tried_where_a_small_one_shows_that_it_cannot_be_had(monkeypatch):
    monkeypatch.setattr(growth, 'memory_free', lambda device: 1e9)
    small, bad = both = series(small=Net(), bad=Net(100))
    assert measure(both, 4096) == {}
    assert small.ended.startswith('out of memory: about ')
    assert bad.ended == 'out of memory'  # at the small size already
    monkeypatch.setattr(growth, 'memory_free', lambda device: None)
    (late,) = all_series = series(a=Net())
    assert measure(all_series, 4096, seconds_left=1e-4) == {}
    assert late.ended == too_late()


def test_an_image_that_cannot_be_allocated_ends_the_series(monkeypatch):
    monkeypatch.setattr(growth, 'memory_free', lambda device: None)
    for side, reason in ((10_000_000, 'out of memory'), (1 << 40, 'failed: RuntimeError: Storage')):
        (only,) = all_series = series(a=Net())
        assert measure(all_series, side, seconds_left=math.inf) == {}
        assert only.ended.startswith(reason)
