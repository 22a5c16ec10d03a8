"""Two trainings do not share a work dir."""

import json
import os
import socket
import subprocess
import sys

import pytest

from mambaout_mm.errors import UserError
from mambaout_mm.training.lock import locked


def held_by(folder, **other):
    (folder / '.lock').write_text(json.dumps(dict(pid=1, host=socket.gethostname()) | other))


def test_the_folder_is_made_and_held_for_the_time(tmp_path):
    folder = tmp_path / 'new' / 'run'
    with locked(folder):
        assert json.loads((folder / '.lock').read_text())['pid'] == os.getpid()
    assert not list(folder.iterdir())


@pytest.mark.parametrize('other', [dict(pid=os.getppid()), dict(host='elsewhere')])
def test_another_training_is_left_alone(tmp_path, other):
    held_by(tmp_path, **other)
    message = 'another training runs in .*another --work-dir'
    with pytest.raises(UserError, match=message), locked(tmp_path):
        pass
    assert (tmp_path / '.lock').exists()


def test_what_a_killed_training_left_is_taken_over(tmp_path):
    ended = subprocess.Popen([sys.executable, '-c', ''])
    ended.wait()
    here = socket.gethostname()
    texts = [json.dumps(dict(pid=pid, host=here)) for pid in (ended.pid, 10**30, float('inf'))]
    for text in (*texts, '', '{"pid": 3', '[' * 100_000):
        (tmp_path / '.lock').write_text(text)
        with locked(tmp_path):
            assert str(os.getpid()) in (tmp_path / '.lock').read_text()


@pytest.mark.parametrize(
    'make',
    [os.mkdir, os.mkfifo, lambda path: os.symlink('nowhere', path)],
    ids=['dir', 'pipe', 'link'],
)
def test_a_lock_that_is_no_file_is_left_alone(make, tmp_path):
    make(tmp_path / '.lock')
    with pytest.raises(UserError, match='its lock is no file.* or remove '), locked(tmp_path):
        pass


def test_of_a_distributed_run_the_first_process_holds_it(tmp_path, monkeypatch):
    monkeypatch.setenv('RANK', '0')
    with locked(tmp_path, 'pytorch'):
        monkeypatch.setenv('RANK', '1')
        with locked(tmp_path, 'pytorch'):
            pass
        assert (tmp_path / '.lock').exists()


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('file', "the work dir .*file' is a file"),
        ('file/run', 'cannot be used: .*Not a directory'),
        ('a\0b', r'cannot be used: (embedded null byte|mkdir: embedded null character in path)$'),
        ('a\udc80b', 'cannot be used: .*surrogates not allowed'),
    ],
)
def test_work_dirs_that_cannot_be_used(tmp_path, name, message):
    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError, match=message), locked(tmp_path / name):
        pass
