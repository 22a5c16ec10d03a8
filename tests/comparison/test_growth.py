"""Growth curves: the fit on timings made by hand, and series that cannot go on."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from mambaout_mm.comparison import growth
from mambaout_mm.comparison.catalogue import Entry, build_backbone
from mambaout_mm.comparison.growth import (
    TIME_LIMIT,
    Series,
    check_parity,
    exponent_record,
    fit_exponent,
    growth_records,
    tokens_at,
)
from mambaout_mm.ops import gated_cnn, selective_scan

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

    def __init__(self, limit=math.inf, error=torch.OutOfMemoryError):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.limit, self.error = limit, error

    def forward(self, x):
        if x.shape[-1] > self.limit:
            raise self.error('no more of it\nmore lines')
        return (self.conv(x).relu(),)


def series(**networks):
    return [Series(Entry(name, 'Conv', {}), net.eval()) for name, net in networks.items()]


def measure(all_series, side, what='forward', seconds_left=60.0):
    found = growth_records(all_series, (side, side), what, 'fp32', 'cpu', seconds_left)
    return {(r.backbone, r.quantity): r for r in found}


def test_a_point_has_time_spread_and_memory():
    found = measure(series(a=Net(), b=Net()), 64)
    time = found['a', 'time']
    assert 0 < time.low <= time.value <= time.high
    assert (time.size, time.setting, time.unit) == ('64x64', 'forward, fp32', 'ms')
    assert found['b', 'peak memory'].value >= 0
    assert ('a', 'kept for the backward pass') not in found


def test_bytes_for_the_backward_pass_are_counted():
    found = measure(series(a=Net()), 64, 'forward+backward')
    # The image, and what relu gives: 4 bytes each for 3 x 64 x 64 and 4 x 62 x 62.
    expected = 4 * (3 * 64 * 64 + 4 * 62 * 62)
    assert found['a', 'kept for the backward pass'].value == expected / 1e6


@pytest.mark.parametrize(
    ('error', 'reason'),
    [
        (torch.OutOfMemoryError, 'out of memory'),
        (ValueError, 'failed: ValueError: no more of it'),
    ],
)
def test_a_series_that_fails_ends_and_the_others_go_on(error, reason):
    both = series(good=Net(), bad=Net(48, error))
    assert measure(both, 32)['bad', 'time'].value > 0
    for side in (64, 96):
        found = measure(both, side)
        assert math.isnan(found['bad', 'time'].value)
        assert found['bad', 'time'].note == found['bad', 'peak memory'].note == reason
        assert found['good', 'time'].value > 0


def test_what_torch_says_on_a_cpu_is_out_of_memory():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50)
    assert growth.reason_of(caught.value) == 'out of memory'


def test_a_series_that_fails_while_it_is_timed_ends_alone(monkeypatch):
    both = series(good=Net(), bad=Net())
    calls = [0]

    def third_fails(x, forward=both[1].model.forward):
        calls[0] += 1
        if calls[0] == 4:  # after the two calls that are not timed and a round
            raise torch.OutOfMemoryError('no more of it')
        return forward(x)

    both[1].model.forward = third_fails
    found = measure(both, 64)
    assert found['bad', 'time'].note == 'out of memory' and found['good', 'time'].value > 0


def test_gradients_are_part_of_the_peak_and_are_not_left_behind():
    net = Net()
    net.wide = nn.Linear(1000, 1000)  # 4 MB of gradients
    net.forward = lambda x, one=net: (one.wide(x.flatten()[:1000]),)
    found = measure(series(a=net), 64, 'forward+backward')
    assert found['a', 'peak memory'].value > 4
    assert all(p.grad is None for p in net.parameters())


def test_equal_tokens_at_two_sizes_are_no_division_by_zero():
    (one,) = only = series(a=Net())
    one.tokens, one.seconds, one.peaks = [16, 16], [1e-4, 2e-4], [1.0, 2.0]
    assert measure(only, 128)['a', 'time'].value > 0


def test_a_series_ends_before_it_passes_the_time():
    slow, quick = both = series(slow=Net(), quick=Net())
    for one, seconds in ((slow, 1.0), (quick, 1e-4)):
        one.tokens, one.seconds, one.peaks = [4.0, 16.0], [seconds / 4, seconds], [0.0, 0.0]
    found = measure(both, 128, seconds_left=10.0)  # 64 tokens: slow would take 5 times 4 s
    assert found['slow', 'time'].note == TIME_LIMIT
    assert found['quick', 'time'].value > 0


def test_a_series_ends_before_memory_does(monkeypatch):
    monkeypatch.setattr(growth, 'memory_free', lambda device: 10e9)
    (one,) = only = series(a=Net())
    one.tokens, one.seconds, one.peaks = [4.0, 16.0], [1e-4, 4e-4], [2e9, 8e9]
    found = measure(only, 128)
    assert found['a', 'time'].note == 'out of memory: about 32 GB are needed, 10 GB free'


def test_a_large_first_size_is_not_tried_where_a_small_one_shows_that_it_cannot_be_had(monkeypatch):
    monkeypatch.setattr(growth, 'memory_free', lambda device: 1e9)
    both = series(small=Net(), bad=Net(100))
    found = measure(both, 4096)
    assert found['small', 'time'].note.startswith('out of memory: about ')
    assert found['bad', 'time'].note == 'out of memory'  # at the small one already
    monkeypatch.setattr(growth, 'memory_free', lambda device: None)
    assert measure(series(a=Net()), 4096, seconds_left=1e-4)['a', 'time'].note == TIME_LIMIT


def test_an_image_that_cannot_be_allocated_ends_the_series(monkeypatch):
    monkeypatch.setattr(growth, 'memory_free', lambda device: None)
    for side, reason in ((10_000_000, 'out of memory'), (1 << 40, 'failed: RuntimeError: Storage')):
        found = measure(series(a=Net()), side, seconds_left=math.inf)
        assert found['a', 'time'].note.startswith(reason)


def test_what_was_measured_is_taken_up_again():
    first, second = series(a=Net()), series(a=Net())
    records = list(measure(first, 64).values())
    second[0].restore(records)
    assert (second[0].tokens, second[0].ended) == (first[0].tokens, '')
    assert second[0].seconds == pytest.approx(first[0].seconds)
    assert second[0].peaks == pytest.approx(first[0].peaks)


def test_the_exponent_of_a_series_or_why_there_is_none():
    (one,) = series(a=Net())
    assert exponent_record(one, 'forward', 'fp32').note == 'not fitted: 0 sizes, four are needed'
    one.tokens, one.seconds = TOKENS, LINEAR
    record = exponent_record(one, 'forward', 'fp32')
    assert record.value == pytest.approx(1) and record.low <= record.value <= record.high


SMALL = dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32))


@pytest.mark.parametrize('dtype', ['fp32', 'bf16'])
@pytest.mark.parametrize('kind', ['MambaOut', 'VMamba'])
def test_parity_of_the_operators(kind, dtype):
    model = build_backbone(Entry('a', '', dict(type=f'mambaout_mm.{kind}', arch=dict(SMALL))))
    assert check_parity(model, 'cpu', dtype) == ''
    assert all(p.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize(
    ('kind', 'backend'), [('MambaOut', gated_cnn.cpu), ('VMamba', selective_scan.blocked)]
)
@pytest.mark.parametrize('dtype', ['fp32', 'bf16'])
def test_parity_sees_an_operator_that_computes_something_else(kind, backend, dtype, monkeypatch):
    exact = backend.forward

    def wrong(*inputs):
        y, *kept = exact(*inputs)
        return y.roll(1, -1), *kept

    monkeypatch.setattr(backend, 'forward', wrong)
    model = build_backbone(Entry('a', '', dict(type=f'mambaout_mm.{kind}', arch=dict(SMALL))))
    assert check_parity(model, 'cpu', dtype).startswith('failed: its operators are off by')
