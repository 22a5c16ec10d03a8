"""The columns of a comparison."""

import pandas as pd

from mambaout_mm.comparison.records import COLUMNS, Record, to_frame


def test_a_frame_has_its_columns_whatever_is_in_it():
    assert tuple(to_frame([]).columns) == COLUMNS
    fields = dict(section='cost', backbone='a', quantity='params', unit='M', origin='computed')
    frame = to_frame([Record(value=1, **fields)])
    assert tuple(frame.columns) == COLUMNS
    assert frame['value'].dtype == float and pd.isna(frame['published'][0])


def test_the_columns_of_the_file_keep_their_order():
    """Scripts of others read table.csv."""
    assert ' '.join(COLUMNS) == (
        'section backbone mixer model quantity setting size value unit low high origin published '
        'difference source note'
    )
