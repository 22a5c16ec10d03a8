"""Files that are whole at any moment."""

import os

import pytest

from mambaout_mm.errors import UserError
from mambaout_mm.files import check_folder, noted, read_file, whole_file, write_bytes, write_text


def test_a_file_on_a_full_disk_leaves_the_old_one(tmp_path, small_disk):
    path = tmp_path / 'new' / 'table.csv'
    write_text(path, 'ä')
    with pytest.raises(UserError, match=r"table.csv' cannot be written: .*; it needs 20,000 bytes"):
        write_bytes(path, bytes(20_000))
    assert path.read_text(encoding='utf-8') == 'ä'
    assert list(path.parent.iterdir()) == [path]


def test_a_file_whose_making_stops_leaves_the_old_one(tmp_path):
    path = tmp_path / 'a.txt'
    write_text(path, 'old')
    with pytest.raises(KeyboardInterrupt), whole_file(path) as unfinished:
        unfinished.write_text('half')
        raise KeyboardInterrupt
    assert path.read_text() == 'old'
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / 'file').write_text('a')
    with pytest.raises(UserError, match=r"the work dir '.*file/x' cannot be used: '.*file' is a f"):
        check_folder(tmp_path / 'file' / 'x', 'the work dir')
    with pytest.raises(UserError, match="'/proc/x' cannot be used: .*; name another folder"):
        check_folder('/proc/x', 'the work dir')
    assert check_folder(tmp_path / 'new' / 'one', 'it').is_dir()


def test_processes_of_a_run_write_the_same_file_at_once(tmp_path, monkeypatch):
    path = tmp_path / 'scalars.json'
    monkeypatch.setenv('RANK', '0')
    with whole_file(path) as first:
        monkeypatch.setenv('RANK', '1')
        with whole_file(path) as second:
            first.write_text('first')
            second.write_text('second')
        assert path.read_text() == 'second'
    assert path.read_text() == 'first'
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize('name', ['a' * 255, 'é' * 127, 'caf\udce9'])
def test_names_as_long_as_the_system_takes(name, tmp_path):
    write_text(tmp_path / name, 'text')
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_file_that_cannot_be_written_is_noted_and_the_next_one_is_there(tmp_path):
    failures = []
    for name in ('a' * 300, 'b'):
        with noted(failures):
            write_text(tmp_path / name, 'text')
    assert len(failures) == 1 and 'cannot be written: File name too long' in failures[0]
    assert (tmp_path / 'b').read_text() == 'text'
    with pytest.raises(UserError):
        write_text(tmp_path / 'b' / 'c', 'text')


@pytest.mark.parametrize('name', ['a' * 300, 'a\0b'])
def test_a_folder_whose_name_no_system_takes(name, tmp_path):
    with pytest.raises(UserError, match='the work dir .* cannot be used: .*; name another folder'):
        check_folder(tmp_path / name, 'the work dir')


@pytest.mark.parametrize('make', [os.mkdir, os.mkfifo])
def test_what_is_no_file_is_not_waited_for(make, tmp_path):
    make(tmp_path / 'config.py')
    with pytest.raises(OSError, match='is no file'):
        read_file(tmp_path / 'config.py')
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / 'nowhere.py')
