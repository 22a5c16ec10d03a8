"""The config to write down, and how stock configs are named."""

import pytest
from mmengine.config import Config
from support import ROOT

from mambaout_mm.errors import UserError
from mambaout_mm.transplant.text import (
    base_of,
    config_path,
    difference,
    stock_configs,
    written,
)


@pytest.mark.parametrize(
    ('old', 'new', 'wanted'),
    [
        (dict(a=1, b=2), dict(a=1, b=3), dict(b=3)),
        (dict(a=dict(b=1, c=2)), dict(a=dict(b=1, c=3)), dict(a=dict(c=3))),
        (dict(a=dict(b=1, c=2)), dict(a=dict(b=1)), dict(a=dict(_delete_=True, b=1))),
        (dict(a=[dict(b=1)]), dict(a=[dict(b=2)]), dict(a=[dict(b=2)])),
        (dict(a='x'), dict(a=None), dict(a=None)),
        (dict(a=(1, 2)), dict(a=(1, 2), b={}), dict(b={})),
        (dict(a=1), dict(a=1), {}),
    ],
)
def test_difference_merges_into_the_new_dict(old, new, wanted):
    assert difference(old, new) == wanted
    assert Config._merge_a_into_b(wanted, old) == new


def test_names_of_stock_configs():
    path = config_path('mmdet::detr/detr_r50_8xb2-150e_coco.py')
    assert Config.fromfile(path).model.type == 'DETR'
    assert base_of(path) == 'mmdet::detr/detr_r50_8xb2-150e_coco.py'
    ours = ROOT / 'configs' / 'detection' / 'maskrcnn_mambaout_t.py'
    assert config_path(str(ours)) == base_of(str(ours)) == str(ours)
    with pytest.raises(UserError, match="'mmpose::a.py': configs are mmdet::NAME"):
        config_path('mmpose::a.py')


def test_a_base_can_be_read(tmp_path):
    """mmseg's name is one that this environment's MMEngine finds, or a path."""
    for package, folder in (('mmdet', 'pafpn'), ('mmdet', 'gn+ws'), ('mmseg', 'sem_fpn')):
        path = next(stock_configs(package).glob(f'{folder}/*r50*.py'))
        (tmp_path / 'config.py').write_text(f'_base_ = {base_of(str(path))!r}\n')
        assert Config.fromfile(tmp_path / 'config.py').model


@pytest.mark.parametrize(
    'value',
    [
        'text',
        (3,),
        [],
        {},
        dict(a=[1, (2,), None], b=dict(c='d')),
        {'backbone.norm': dict(decay_mult=0.0), 'lambda': 1},
        dict(layers=[dict(type='A' * 30, in_channels=[256, 512]), dict(type='B' * 40, n=2)] * 2),
    ],
    ids=str,
)
def test_a_written_value_is_python(value):
    text = written(value, before=10)
    assert eval(text) == value
    assert max(map(len, text.splitlines())) < 100
    assert '\n' not in text or len(str(value)) > 80
