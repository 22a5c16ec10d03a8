"""The gated convolution's benchmark, at a size that takes no time."""

import csv
import subprocess
import sys

from support import ROOT


def test_writes_two_rows_for_each_dtype(tmp_path):
    command = [sys.executable, ROOT / 'benchmarks' / 'gated_conv.py', '--rounds', '2']
    command += ['--case', '9', '8', '8', '21', '--out', tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    with open(tmp_path / 'gated_conv.csv') as file:
        rows = list(csv.DictReader(file))
    whats = ['forward', 'forward+backward']
    assert [(row['dtype'], row['what']) for row in rows] == [
        (dtype, what) for dtype in ('fp32', 'bf16') for what in whats
    ]
    for row in rows:
        assert float(row['plain_over_op']) > 0 and float(row['share_of_copy_rate']) > 0
