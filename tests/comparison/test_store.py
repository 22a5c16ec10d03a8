"""Results that survive an interruption."""

import json
import math
import time

import pytest

from mambaout_mm.comparison.records import Record
from mambaout_mm.comparison.store import Store
from mambaout_mm.errors import UserError

RECORD = Record(
    section='cost',
    backbone='a',
    quantity='params',
    value=math.nan,
    unit='M',
    origin='computed',
    note='"why", <b>',
)


def test_what_was_put_is_there_again(tmp_path):
    path = tmp_path / 'new' / 'results.jsonl'
    Store(path).put([RECORD], backbone='a', size=(32, 64))
    again = Store(path)
    (found,) = again.get(backbone='a', size=(32, 64))
    assert math.isnan(found.value) and found.note == RECORD.note
    assert again.get(backbone='a', size=(64, 64)) is None
    assert (again.reused, again.oldest) == (1, time.strftime('%Y-%m-%d'))


def test_a_line_that_was_cut_off_is_made_again(tmp_path):
    path = tmp_path / 'results.jsonl'
    store = Store(path)
    store.put([RECORD], backbone='a')
    store.put([RECORD], backbone='b')
    text = path.read_text()
    path.write_text(text[:-20])
    cut = Store(path)
    assert cut.get(backbone='a') and cut.get(backbone='b') is None
    cut.put([RECORD], backbone='b')
    assert path.read_text() == text


def changed(line, **fields):
    return json.dumps(json.loads(line) | fields).encode()


@pytest.mark.parametrize(
    'spoil',
    [
        lambda line: b'garbage',
        lambda line: b'\xff\xfe\0',
        lambda line: b'',
        lambda line: b'[1, 2]',
        lambda line: b'[' * 100_000,
        lambda line: line[:-9],
        lambda line: line.replace(b'params', b'parans'),
        lambda line: line.replace(b'NaN', b'1.0', 1),
        lambda line: changed(line, records=[]),
        lambda line: changed(line, records=[dict(section=1)]),
        lambda line: changed(line, key=1),
        lambda line: changed(line, key=['b']),
        lambda line: changed(line, date=3),
        lambda line: changed(line, digest=None),
    ],
)
def test_a_result_that_was_damaged_is_made_anew_and_kept_aside(spoil, tmp_path):
    path = tmp_path / 'results.jsonl'
    store = Store(path)
    for name in 'abc':
        store.put([RECORD], backbone=name)
    first, second, third, _ = path.read_bytes().split(b'\n')
    damaged = b'\n'.join([first, spoil(second), third, b''])
    path.write_bytes(damaged)
    again = Store(path)
    assert [again.get(backbone=name) is None for name in 'abc'] == [False, True, False]
    (sentence,) = again.remade
    assert sentence.startswith(f'1 of 3 results in {path} cannot be read and are made anew')
    assert (tmp_path / 'results.jsonl.damaged').read_bytes() == damaged
    again.put([RECORD], backbone='b')
    assert path.read_bytes().split(b'\n') == [first, third, second, b'']
    assert Store(path).remade == again.unwritten == []


def test_a_result_of_another_version_is_made_anew(tmp_path, monkeypatch):
    path = tmp_path / 'results.jsonl'
    Store(path).put([RECORD], backbone='a')
    monkeypatch.setattr('mambaout_mm.comparison.store.Record', lambda section: None)
    assert Store(path).get(backbone='a') is None


def test_a_full_disk_leaves_whole_lines_and_the_results_of_this_run(tmp_path, small_disk):
    path = tmp_path / 'results.jsonl'
    store = Store(path)
    for number in range(60):
        store.put([RECORD], backbone=number)
    assert store.get(backbone=59)
    (sentence,) = store.unwritten
    assert sentence.startswith(f"results cannot be added to '{path}': File too large")
    again = Store(path)
    kept = [number for number in range(60) if again.get(backbone=number)]
    assert kept == list(range(len(kept))) and 0 < len(kept) < 60
    assert again.remade == []


def test_a_file_that_cannot_be_read_is_told(tmp_path):
    with pytest.raises(UserError, match='cannot be read: Is a directory'):
        Store(tmp_path)


def test_without_a_path_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = Store()
    store.put([RECORD], backbone='a')
    assert store.get(backbone='a') == [RECORD]
    assert list(tmp_path.iterdir()) == []
