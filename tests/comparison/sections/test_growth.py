"""Growth as records, in the summary and as a picture."""

import math

import pytest
from torch import nn

from mambaout_mm.comparison.catalogue import Network
from mambaout_mm.comparison.records import Record, to_frame
from mambaout_mm.comparison.result import Comparison
from mambaout_mm.comparison.sections.growth import (
    GrowthSection,
    exponent_record,
    growth_records,
    take_up,
)
from mambaout_mm.measure.growth import Conditions, Point, Series
from mambaout_mm.measure.timing import Spread

ENTRIES = [Network(name, 'Conv', {}) for name in ('a', 'b')]
TRAINING = Conditions('forward+backward', 'fp32', 'cpu')


def test_a_point_has_time_spread_and_memory():
    all_series = [Series('a', nn.Identity()), Series('b', nn.Identity(), ended='out of memory')]
    points = {'a': Point(Spread(0.2, 0.1, 0.3), 5, 2_000_000, 1_000_000)}
    records = list(growth_records(ENTRIES, all_series, points, (64, 96), TRAINING))
    assert [(r.backbone, r.quantity, r.value, r.unit) for r in records[:3]] == [
        ('a', 'time', 200.0, 'ms'),
        ('a', 'peak memory', 2.0, 'MB'),
        ('a', 'kept for the backward pass', 1.0, 'MB'),
    ]
    assert (records[0].low, records[0].high) == (100.0, 300.0)
    assert (records[0].size, records[0].setting) == ('64x96', 'forward+backward, fp32')
    assert [(r.backbone, r.quantity, r.note) for r in records[3:]] == [
        ('b', 'time', 'out of memory'),
        ('b', 'peak memory', 'out of memory'),
    ]
    assert all(math.isnan(r.value) for r in records[3:])


def test_what_was_measured_is_taken_up_again():
    points = {name: Point(Spread(0.2, 0.1, 0.3), 5, 2_000_000, None) for name in 'ab'}
    first, second = ([Series(name, nn.Identity()) for name in 'ab'] for _ in range(2))
    records = list(growth_records(ENTRIES, first, points, (64, 96), TRAINING))
    take_up(second[0], records)
    assert (second[0].tokens, second[0].ended) == ([4 * 6], '')
    assert second[0].seconds == pytest.approx([0.2])
    assert second[0].peaks == pytest.approx([2e6])


def test_the_exponent_of_a_series_or_why_there_is_none():
    series = Series('a', nn.Identity())
    record = exponent_record(ENTRIES[0], series, TRAINING)
    assert record.note == 'not fitted: 0 sizes, four are needed'
    series.tokens = [196, 400, 784, 1600]
    series.seconds = [tokens / 1e4 for tokens in series.tokens]
    record = exponent_record(ENTRIES[0], series, TRAINING)
    assert record.value == pytest.approx(1) and record.low <= record.value <= record.high


def record(backbone, size, value, quantity='time', unit='ms'):
    return Record(
        section='growth',
        backbone=backbone,
        mixer='Conv',
        quantity=quantity,
        setting='forward, fp32',
        size=size,
        value=value,
        unit=unit,
        low=0.9 * value,
        high=1.1 * value,
        origin='measured',
    )


def picture_of(records):
    machine = dict(device='a machine', threads=2, torch='0.0')
    return dict(GrowthSection().pictures(Comparison(to_frame(records), [], machine)))


def test_growth_has_logarithmic_axes_and_the_exponents():
    records = [
        record(backbone, f'{side}x{side}', side**power)
        for backbone, power in (('MambaOut-T', 2), ('ConvNeXt-T', 2.2))
        for side in (64, 128, 256)
    ]
    records.append(record('MambaOut-T', '512x512', math.nan))
    records.append(record('MambaOut-T', '', 1.25, 'exponent of time', ''))
    figure = picture_of(records)['growth']
    (axis,) = figure.axes
    assert axis.get_xscale() == axis.get_yscale() == 'log'
    ours, theirs = axis.get_lines()
    assert ours.get_xdata().tolist() == [16, 64, 256]
    labels = [text.get_text() for text in axis.get_legend().get_texts()]
    assert labels == ['MambaOut-T  (tokens to the power 1.25 ± 0.12)', 'ConvNeXt-T']
    assert ours.get_color() != theirs.get_color()
    assert 'a machine' in figure.get_suptitle()


def test_without_a_number_there_is_no_picture():
    assert picture_of([record('a', '64x64', math.nan)]) == {}
