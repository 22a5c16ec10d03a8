"""Files that are whole at any moment."""

import pytest

from mambaout_mm.errors import UserError
from mambaout_mm.files import noted, whole_file, write_text


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
