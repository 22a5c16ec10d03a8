"""Files that are whole at any moment."""

import resource

import pytest

from mambaout_mm.errors import UserError
from mambaout_mm.files import check_folder, whole_file, write_bytes, write_text


@pytest.fixture
def small_disk():
    """Files end at 10 kB, as on a disk that is full then."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


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


@pytest.mark.parametrize('name', ['n' * 250, 'n' * 300])
def test_a_very_long_name(tmp_path, name):
    if len(name) < 256:
        write_text(tmp_path / name, 'a')
        assert (tmp_path / name).read_text() == 'a'
    else:
        with pytest.raises(UserError, match='cannot be written: File name too long'):
            write_text(tmp_path / name, 'a')


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / 'file').write_text('a')
    with pytest.raises(UserError, match=r"the work dir '.*file/x' cannot be used: '.*file' is a f"):
        check_folder(tmp_path / 'file' / 'x', 'the work dir')
    with pytest.raises(UserError, match="'/proc/x' cannot be used: .*; name another folder"):
        check_folder('/proc/x', 'the work dir')
    assert check_folder(tmp_path / 'new' / 'one', 'it').is_dir()
