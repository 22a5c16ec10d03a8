"""The benchmark of memory formats, at a size that takes no time."""

import csv
import subprocess
import sys

import pytest
from support import ROOT


@pytest.mark.parametrize('model', [pytest.param('maskrcnn', marks=pytest.mark.slow), 'upernet'])
def test_writes_a_row_for_each_layout(model, tmp_path):
    command = [sys.executable, ROOT / 'benchmarks' / 'memory_format.py', '--rounds', '2']
    command += ['--models', model, '--arch', 'femto', '--size', '64', '64', '--out', tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    with open(tmp_path / 'memory_format.csv') as file:
        rows = list(csv.DictReader(file))
    whats = ['inference', 'forward+backward']
    assert [(row['what'], row['layout']) for row in rows] == [
        (what, layout) for what in whats for layout in ('contiguous', 'channels_last')
    ]
    for row in rows:
        assert float(row['median_ms']) > 0 and float(row['over_channels_last']) > 0
