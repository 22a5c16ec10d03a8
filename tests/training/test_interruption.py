"""Trainings that are stopped from outside, and go on."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest
from support import ROOT, two_iterations

from mambaout_mm.training.interruption import told_when_stopped

CONFIG = ROOT / 'configs' / 'segmentation' / 'upernet_mambaout_femto.py'


def start(folder, iterations):
    command = [sys.executable, ROOT / 'tools' / 'train.py', CONFIG, '--demo', '--resume']
    command += [
        '--work-dir',
        folder,
        '--save-on',
        'SIGUSR1',
        '--cfg-options',
        *two_iterations(CONFIG),
    ]
    command += [f'train_cfg.max_iters={iterations}', 'default_hooks.checkpoint.interval=1']
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder.parent,
        # A test run in the background of a shell has SIGINT ignored, and passes that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def newest(folder):
    return max((int(p.stem[5:]) for p in folder.glob('iter_*.pth')), default=0)


@pytest.mark.slow
def test_a_training_that_is_stopped_says_so_and_goes_on(workspace):
    folder = workspace / 'run'
    stops = (
        (signal.SIGTERM, 143),
        (signal.SIGINT, 130),
        (signal.SIGKILL, -9),
        (signal.SIGUSR1, 138),
    )
    for number, code in stops:
        before = newest(folder)
        training = start(folder, 1000)
        deadline = time.monotonic() + 120
        while newest(folder) < before + 2 and training.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(training.pid, number)
        _, err = training.communicate(timeout=60)
        assert training.returncode == code, err
        assert 'Traceback' not in err
        if code > 0:
            last = err.splitlines()[-1]
            found = re.fullmatch(
                r'stopped at iteration (\d+) of 1000; the same command with --resume goes on from '
                r'.*(iter_(\d+)|preempted)\.pth',
                last,
            )
            assert found and newest(folder) >= before + 2
            if number == signal.SIGUSR1:
                assert found[2] == 'preempted'
            else:
                assert int(found[3]) == newest(folder)
        log = (folder / 'output.log').read_text()
        assert not before or f'iter: {before}' in log  # "resumed epoch: 0, iter: 3"
    last = newest(folder)
    training = start(folder, last + 1)
    out, err = training.communicate(timeout=120)
    assert training.returncode == 0, err
    assert f'iteration {last + 1} of {last + 1}' in out
    assert not list(folder.glob('.*.pth'))
    training = start(folder, last + 1)
    out, err = training.communicate(timeout=120)
    assert training.returncode == 0, err
    assert 'is the end of this training' in ' '.join(out.split())


@pytest.mark.slow
def test_a_training_that_is_stopped_at_once_says_that_it_starts_anew(workspace):
    training = start(workspace / 'run', 1000)
    while not (workspace / 'run' / 'output.log').exists():
        time.sleep(0.05)
    training.send_signal(signal.SIGTERM)
    _, err = training.communicate(timeout=60)
    assert training.returncode == 143
    assert err.splitlines()[-1].endswith('the same command starts anew')


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_library_that_takes_the_signal_for_an_error_of_its_own(number, capsys):
    """MMEngine formats configs within a bare `except`, which raises a SyntaxError."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(SystemExit) as caught, told_when_stopped():
            try:
                signal.raise_signal(number)
            except BaseException as error:
                raise SyntaxError('Failed to format the config file') from error
        assert caught.value.code == 128 + number
        assert 'stopped before the first iteration' in capsys.readouterr().err
        with pytest.raises(SyntaxError), told_when_stopped():
            raise SyntaxError
    finally:
        signal.signal(signal.SIGINT, before)
