"""The GPU benchmark's program, proved on a CPU with tiny images."""

import subprocess

import pytest
from support import ROOT, needs_torch
from support_models import small_config


@needs_torch('2.4', "AdamW's fused step on a CPU")
@pytest.mark.parametrize(
    ('task', 'model'), [('detection', 'maskrcnn'), ('segmentation', 'upernet')]
)
@pytest.mark.parametrize('script', ['gpu_train'], indirect=True)
def test_loss_falls_and_a_row_is_written(task, model, script, tmp_path):
    config = small_config(model, tmp_path)
    (row,) = script.run(
        '--task', task, f'--{task}-config', config, '--device', 'cpu', '--no-amp',
        '--size', 64, 96, '--batch', 2, '--iterations', 12,
    )  # fmt: skip
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
