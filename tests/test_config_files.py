"""Finding this project's configs."""

import pytest
from support import ROOT

from mambaout_mm import config_files
from mambaout_mm.config_files import find_config
from mambaout_mm.errors import UserError


def test_a_checkouts_configs_are_found():
    name = 'detection/maskrcnn_mambaout_t.py'
    assert find_config(name) == ROOT / 'configs' / name


def test_what_is_not_there_is_said(monkeypatch):
    with pytest.raises(UserError, match="there is no config 'detection/no.py' in "):
        find_config('detection/no.py')
    monkeypatch.setattr(config_files, 'CONFIGS', None)
    with pytest.raises(UserError, match='the configs are not installed beside mambaout_mm'):
        find_config('detection/no.py')
