"""The published results: complete, with their sources, and never mixed."""

import pandas as pd
import pytest

from mambaout_mm.comparison.published import gaps, published_records, published_results, recipe_of
from mambaout_mm.comparison.records import COLUMNS, Record, to_frame


@pytest.fixture(scope='module')
def rows():
    return published_results()


def test_every_row_has_its_source_and_an_accuracy(rows):
    assert len(rows) == 201
    assert (rows['source'] != '').all()
    assert rows[['ap_box', 'ap_mask', 'miou_ss', 'miou_ms', 'top1']].notna().any(axis=1).all()


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


def test_caveats_hold_the_row_s_note_and_the_authors_recipe(rows):
    row = rows[(rows['backbone'] == 'PlainMamba-L1 (Adapter)')].iloc[0]
    assert row['caveat'].startswith('ViT-Adapter pyramid, not backbone-to-backbone; FP32')
    assert recipe_of('VMambaV9-S', 'segmentation').startswith('FP32, 8 x 2 images, lr 6e-5')
    assert row['caveat'].endswith("its MACs add the scan's floating-point operations")
    assert recipe_of('LocalVMamba-T', 'detection').startswith('mixed precision')
    assert recipe_of('ConvNeXt-T', 'detection') == ''


def test_one_name_is_one_network(rows):
    """MambaOut's tables print VMamba's first release, 42 M, as VMamba-T."""
    frame = to_frame(published_records(rows, {'VMamba-T': 'VMamba-T v0'}))
    first = frame[(frame['backbone'] == 'VMamba-T v0') & (frame['quantity'] == 'params')]
    assert 42 in first['value'].tolist() and 'VMamba-T' not in set(frame['backbone'])
    assert first['note'].str.contains('printed as VMamba-T').any()


def test_gaps_are_the_papers_two_hypotheses(rows):
    table = gaps(rows)
    assert len(table) == 15
    by_quantity = table.groupby('quantity')['gap']
    # MambaOut tables 1 to 3: 82.7 / 84.1 / 84.2 beside 82.5 / 83.6 / 83.9, and so on.
    assert by_quantity.get_group('top-1').tolist() == [0.2, 0.5, 0.3]
    assert by_quantity.get_group('box AP').tolist() == [-2.3, -1.3, -1.8]
    assert by_quantity.get_group('mIoU').tolist() == [-0.9, -1.1, -1.4]


def test_a_frame_has_its_columns_whatever_is_in_it():
    assert tuple(to_frame([]).columns) == COLUMNS
    assert set(COLUMNS) == set(Record._fields)
    frame = to_frame([Record('cost', 'a', 'params', 1, 'M', 'computed')])
    assert frame['value'].dtype == float and pd.isna(frame['published'][0])
