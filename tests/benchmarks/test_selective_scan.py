"""The scan's benchmark, at a size that takes no time."""

import csv
import subprocess
import sys

from support import ROOT


def test_writes_both_rows_of_a_case(tmp_path):
    command = [sys.executable, ROOT / 'benchmarks' / 'selective_scan.py', '--rounds', '2']
    command += ['--case', '200', '16', '2', '--out', tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    with open(tmp_path / 'selective_scan.csv') as file:
        rows = list(csv.DictReader(file))
    assert [row['what'] for row in rows] == ['forward', 'forward+backward']
    for row in rows:
        assert float(row['parity']) < 1e-4
        ratio = float(row['other_ms_median']) / float(row['scan_ms_median'])
        assert abs(float(row['other_over_scan']) - ratio) < 1e-2 * ratio
        assert row['device']
