"""The scan's benchmark, at a size that takes no time."""

import pytest

from mambaout_mm.ops.native import kernels


@pytest.mark.parametrize('script', ['selective_scan'], indirect=True)
def test_writes_the_rows_of_a_case(script):
    rows = script.run('--rounds', 2, '--case', 200, 16, 2)
    others = ['loop'] if kernels() is None else ['blocked', 'loop']
    assert [(row['what'], row['compared_with']) for row in rows] == [
        (what, other) for what in ('forward', 'forward+backward') for other in others
    ]
    for row in rows:
        assert float(row['parity']) < 1e-4
        ratio = float(row['other_ms_median']) / float(row['scan_ms_median'])
        assert abs(float(row['other_over_scan']) - ratio) < 1e-2 * ratio
        assert row['device']
