"""Options of the command line that cannot be read."""

import argparse
import sys

import pytest

from mambaout_mm.training.arguments import parse_run_arguments


def parsed(monkeypatch, *options):
    monkeypatch.setattr(sys, 'argv', ['train.py', '--cfg-options', *options])
    return parse_run_arguments(argparse.ArgumentParser())


def test_options_are_mmengines(monkeypatch):
    arguments = parsed(monkeypatch, 'a.b=1', 'c=[(1,x)]', 'd=None', 'e=p=q')
    assert arguments['cfg_options'] == {'a.b': 1, 'c': [(1, 'x')], 'd': None, 'e': 'p=q'}
    assert not arguments['trust'] and not arguments['debug']


@pytest.mark.parametrize(
    ('option', 'words'),
    [
        ('model.with_cp', "'model.with_cp' is no KEY=VALUE"),
        ('=3', "'=3' is no KEY=VALUE"),
        ('a=[1,2', "'a=[1,2': the value cannot be read"),
        ('a=(1,[2)', 'as many closing brackets'),
        ('a=dict(b=1)', 'give each of its keys, as in a.NAME=VALUE'),
        ('a={"b":1,"c":2}', 'give each of its keys'),
        ('a=f(1,2)', 'the value cannot be read'),
    ],
)
def test_options_that_cannot_be_read(monkeypatch, capsys, option, words):
    with pytest.raises(SystemExit) as caught:
        parsed(monkeypatch, option)
    assert caught.value.code == 2
    assert words in capsys.readouterr().err
