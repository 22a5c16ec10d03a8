"""Published results as records, in the figures of the page and in pictures."""

import numpy as np
import pytest

from mambaout_mm.comparison.figures import MIXERS
from mambaout_mm.comparison.published_results import published_results
from mambaout_mm.comparison.records import to_frame
from mambaout_mm.comparison.sections.published import (
    PANELS,
    draw_published,
    published_figures,
    published_records,
)


@pytest.fixture(scope='module')
def rows():
    return published_results()


def test_schedules_are_kept_apart(rows):
    frame = to_frame(published_records(rows, {}))
    box = frame[(frame['quantity'] == 'box AP') & (frame['backbone'] == 'VMamba-T[s2l5]')]
    assert dict(zip(box['setting'], box['value'], strict=True)) == {'1x': 47.4, '3x MS': 48.9}


def test_every_record_is_published_and_names_its_source(rows):
    frame = to_frame(published_records(rows, {}))
    assert set(frame['origin']) == {'published'}
    assert frame['value'].notna().all() and (frame['source'] != '').all()
    numbers = ['ap_box', 'ap_mask', 'miou_ss', 'miou_ms', 'top1', 'params_m', 'macs_g']
    assert len(frame) == rows[numbers].notna().sum().sum()


def test_one_name_is_one_network(rows):
    """MambaOut's tables print VMamba's first release, 42 M, as VMamba-T."""
    frame = to_frame(published_records(rows, {'VMamba-T': 'VMamba-T v0'}))
    first = frame[(frame['backbone'] == 'VMamba-T v0') & (frame['quantity'] == 'params')]
    assert 42 in first['value'].tolist() and 'VMamba-T' not in set(frame['backbone'])
    assert first['note'].str.contains('printed as VMamba-T').any()


def test_points_carry_source_and_caveat():
    figures = {one.name: one for one in published_figures(published_results())}
    assert list(figures) == ['classification', 'detection', 'segmentation']
    for one in figures.values():
        texts = [text for trace in one.spec['data'] for text in trace['text']]
        assert texts and all('<br>published, source: ' in t and '<br>caveat: ' in t for t in texts)
    traces = figures['detection'].spec['data']
    (adapter,) = [
        t for trace in traces if trace['visible'] for t in trace['text'] if 'ViT-Adapter-S' in t
    ]
    assert 'source: arXiv 2405.07992 table 2' in adapter
    assert 'not backbone-to-backbone' in adapter.replace('<br>', ' ')


def test_schedules_are_never_in_one_view():
    rows = published_results()
    detection = published_figures(rows)[1]
    for view in detection.views:
        own = [t for t in detection.spec['data'] if t['meta'] == view['key']]
        named = {text.split('<br>')[2] for trace in own for text in trace['text']}
        assert len(named) == 1


def test_published_points_are_all_there():
    rows = published_results()
    figure = draw_published(rows)
    for axis, (method, schedule, accuracy, _) in zip(figure.axes[::2], PANELS, strict=True):
        same = rows[(rows['method'] == method) & (rows['schedule'] == schedule)]
        same = same[same[accuracy].notna() & same['macs_g'].notna()]
        points = np.concatenate(
            [c.get_offsets() for c in axis.collections] + [line.get_xydata() for line in axis.lines]
        )
        expected = same[['macs_g', accuracy]].to_numpy()
        assert {tuple(p) for p in expected} == {tuple(p) for p in points}


def test_every_published_mixer_has_its_colour(rows):
    assert set(rows['mixer']) <= set(MIXERS)
