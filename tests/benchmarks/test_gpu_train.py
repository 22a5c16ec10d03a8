"""The GPU benchmark's program, proved on a CPU with tiny images."""

import csv
import subprocess
import sys

import pytest
from support import ROOT


@pytest.mark.slow
@pytest.mark.parametrize('task', ['detection', 'segmentation'])
def test_loss_falls_and_a_row_is_written(task, tmp_path):
    command = [sys.executable, ROOT / 'benchmarks' / 'gpu_train.py', '--task', task]
    command += ['--device', 'cpu', '--no-amp', '--size', '64', '96', '--batch', '2']
    command += ['--iterations', '12', '--out', tmp_path]
    for name, model in (('detection', 'maskrcnn'), ('segmentation', 'upernet')):
        config = ROOT / 'configs' / name / f'{model}_mambaout_femto.py'
        command += [f'--{name}-config', config]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    with open(tmp_path / 'gpu_train.csv') as file:
        (row,) = csv.DictReader(file)
    assert row['task'] == task
    assert float(row['loss_last']) < float(row['loss_first'])
    assert float(row['sec_per_iter_median']) > 0


def test_without_a_gpu_the_script_says_so(tmp_path):
    fake = tmp_path / 'python3'
    fake.write_text('#!/bin/sh\nexit 1\n')
    fake.chmod(0o755)
    done = subprocess.run(
        ['bash', ROOT / 'benchmarks' / 'gpu.sh'],
        capture_output=True,
        text=True,
        env={'PATH': f'{tmp_path}:/usr/bin:/bin'},
    )
    assert done.returncode == 1
    assert 'no PyTorch that finds a CUDA device' in done.stderr
