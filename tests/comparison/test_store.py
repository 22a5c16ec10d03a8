"""Results that survive an interruption."""

import math
import time

import pytest

from mambaout_mm.comparison.records import Record
from mambaout_mm.comparison.store import Store
from mambaout_mm.errors import UserError

RECORD = Record('cost', 'a', 'params', math.nan, 'M', 'computed', note='"why", <b>')


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


def test_a_broken_line_is_refused_with_its_place(tmp_path):
    path = tmp_path / 'results.jsonl'
    path.write_text('{"key": "a", "date": "2000-01-01", "records": []}\n{"key": 1\n{}\n')
    with pytest.raises(UserError, match="line 2 of '.*results.jsonl' is no result"):
        Store(path)


def test_without_a_path_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = Store()
    store.put([RECORD], backbone='a')
    assert store.get(backbone='a') == [RECORD]
    assert list(tmp_path.iterdir()) == []
