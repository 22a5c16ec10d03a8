"""`python -m mambaout_mm`."""

import sys

import mmengine
import pytest
import torch

import mambaout_mm
from mambaout_mm import __main__ as command
from mambaout_mm.ops import native, triton_use


def say(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, 'argv', ['mambaout_mm', *arguments])
    command.main()
    return capsys.readouterr().out


def test_versions_and_kernels(monkeypatch, capsys):
    said = say(monkeypatch, capsys)
    for expected in (
        mambaout_mm.__version__,
        torch.__version__,
        mmengine.__version__,
        f'C kernels:      {native.description()}\n',
        f'Triton kernels: {triton_use.description()}\n',
    ):
        assert expected in said


def test_what_is_not_installed(monkeypatch, capsys):
    monkeypatch.setitem(command.OPENMMLAB, 'mmseg', ('a-distribution-that-nobody-has',))
    assert 'mmseg:          not installed\n' in say(monkeypatch, capsys)


def test_help(monkeypatch, capsys):
    with pytest.raises(SystemExit) as stop:
        say(monkeypatch, capsys, '--help')
    assert stop.value.code == 0
    assert 'usage: python -m mambaout_mm' in capsys.readouterr().out


def test_a_switch_that_is_neither_on_nor_off(monkeypatch, capsys):
    monkeypatch.setenv('MAMBAOUT_MM_NATIVE', 'no')
    native._choose.cache_clear()
    with pytest.raises(SystemExit, match='^error: MAMBAOUT_MM_NATIVE must be "on" or "off"'):
        say(monkeypatch, capsys)
