"""The benchmark of the C kernels, at a size that takes no time."""

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from mambaout_mm.ops import native

pytestmark = pytest.mark.skipif(
    native.kernels() is None, reason=f'C kernels: {native.description()}'
)
ARGUMENTS = '--rounds', 2, '--size', 64, 64
SMALL = dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32))


@pytest.fixture
def small_vmamba(script, monkeypatch):
    network = dict(type='mambaout_mm.VMamba', arch=SMALL)
    monkeypatch.setitem(script.module.NETWORKS, 'VMamba-T', network)


@pytest.mark.parametrize('script', ['native'], indirect=True)
def test_writes_a_row_for_each_pass(script, small_vmamba):
    rows = script.run(*ARGUMENTS, '--networks', 'VMamba-T', '--load')
    assert [row['what'] for row in rows] == ['inference', 'forward+backward']
    for row in rows:
        ratio = float(row['torch_ms_median']) / float(row['native_ms_median'])
        assert float(row['torch_over_native']) == pytest.approx(ratio, rel=0.05)
        assert row['timm_over_native'] == ''
        assert row['load'] == 'True' and row['c_kernels'].startswith('in use')


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='looks into /proc')
@pytest.mark.parametrize('script', ['native'], indirect=True)
def test_the_load_ends_with_the_process_that_started_it(script, tmp_path):
    program = 'import subprocess, sys, time\n' + textwrap.dedent("""
        load = subprocess.Popen([sys.executable, '-c', sys.argv[1]], stdout=subprocess.PIPE)
        load.stdout.readline()
        print(load.pid, flush=True)
        time.sleep(60)
    """)
    parent = subprocess.Popen(
        [sys.executable, '-c', program, script.module.LOAD], stdout=subprocess.PIPE
    )
    load = int(parent.stdout.readline())
    os.kill(load, 0)  # it runs
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 20
    while runs(load):
        assert time.monotonic() < deadline, 'the load outlives what it was started for'
        time.sleep(0.1)


def runs(pid):
    """Whether a process runs; what nobody waited for does not."""
    try:
        state = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0]
    except FileNotFoundError:
        return False
    return state != 'Z'


@pytest.mark.slow
@pytest.mark.parametrize('script', ['native'], indirect=True)
def test_mambaout_stands_beside_timms(script):
    (row,) = script.run(*ARGUMENTS, '--networks', 'MambaOut-T', '--what', 'inference')
    timm = min(float(row[f'{form}_ms_median']) for form in ('timm', 'timm_channels_last'))
    ratio = timm / float(row['native_ms_median'])
    assert float(row['timm_over_native']) == pytest.approx(ratio, rel=0.05)


@pytest.mark.parametrize('script', ['native'], indirect=True)
def test_what_is_wrong_is_not_timed(script, small_vmamba, tmp_path, monkeypatch):
    from mambaout_mm.ops.selective_scan import native as scan

    forward = scan.forward
    monkeypatch.setattr(
        scan, 'forward', lambda *args: (forward(*args)[0] * 1.5, *forward(*args)[1:])
    )
    with pytest.raises(SystemExit, match='VMamba-T in fp32 failed: .* nothing is timed'):
        script.run(*ARGUMENTS, '--networks', 'VMamba-T', '--what', 'inference')
    assert not (tmp_path / 'native.csv').exists()
