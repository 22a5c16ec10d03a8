"""Configs of others are data: read as MMEngine reads them, or refused, but never run."""

import pickle
from contextlib import suppress

import pytest
import torch
from mmcv.ops import batched_nms
from mmdet.registry import TASK_UTILS
from mmengine.config import Config
from mmengine.registry import MODELS
from mmseg.utils.io import datafrombytes
from support import ROOT

from mambaout_mm.errors import UserError
from mambaout_mm.literal_config import config_of_text, only_registered, read_config
from mambaout_mm.trust import trusting

RECIPES = sorted((ROOT / 'configs').glob('*/*.py'))
EVERY_KIND = """
a = dict(_scope_='mmdet', type='X', scale=(1, -2.5), nested=dict(key=[None, True, ...]))
b = {'no identifier': {1, 2}, 3: b'bytes'}
c = [1e999, -1e999, 1e-4, 'two '
     'lines', ()]
"""


@pytest.mark.parametrize('path', RECIPES, ids=lambda path: path.stem)
def test_what_mmengine_writes_of_a_recipe_comes_back(path):
    cfg = Config.fromfile(path)
    # Without yapf's layout, which takes a second for each
    text = Config(cfg.to_dict(), format_python_code=False).pretty_text
    assert config_of_text(text, 'it').to_dict() == cfg.to_dict()


def test_every_kind_of_literal_is_what_python_makes_of_it():
    expected = Config.fromstring(EVERY_KIND, '.py')
    assert config_of_text(EVERY_KIND, 'it').to_dict() == expected.to_dict()
    assert str(config_of_text('x = [inf, -inf, nan]', 'it').x) == '[inf, -inf, nan]'
    assert config_of_text('', 'it').to_dict() == {}


@pytest.mark.parametrize(
    ('text', 'shown'),
    [
        ('{run}', '`import pathlib`'),
        ('x = 1\n\ny = __import__("os").getcwd()', r"line 3: `__import__\('os'\).getcwd\(\)`"),
        ('x = f"{1}"', r"`f'\{1\}'`"),
        ('x = [i for i in ()]', 'line 1'),
        ('x = lambda: 1', '`lambda ?: 1`'),
        ('x = 9 ** 9', r'`9 \*\* 9`'),
        ('x = dict([])', r'`dict\(\[\]\)`'),
        ('x = dict(**{"a": 1})', 'line 1'),
        ('x = {**{}}', 'line 1'),
        ('x = -"a"', "`-'a'`"),
        ('x = y', '`y`'),
        ('x = a = 1', '`x = a = 1`'),
        ('x: int = 1', '`x: int = 1`'),
        ('x[0] = 1', 'line 1'),
        ('_base_ = "/etc/passwd"', 'another config'),
    ],
)
def test_more_than_data_is_refused_and_not_run(text, shown, tmp_path):
    trace = tmp_path / 'trace'
    text = text.replace('{run}', f'import pathlib\npathlib.Path({str(trace)!r}).touch()')
    with pytest.raises(UserError, match=f'^it, .*{shown}.* more than data.* say --trust'):
        config_of_text(text, 'it')
    assert not trace.exists()


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('x = 1\ny = (', r"line 2, is no config: '\(' was never closed"),
        ('x = "a\0b"', 'is no config: .*null bytes'),
        ('(' * 300, 'too many nested parentheses'),
        ('x = ' + '-' * 100_000 + '1', 'nested too deeply'),
        ('x = ' + '+'.join(['1'] * 5000), 'nested too deeply'),
        ('x = ' + '9' * 5000, 'is no config: .*limit.*4300'),
        ('x = 0x' + 'f' * 5000, 'is no config: .*limit.*4300'),
        ('x = {[]: 1}', "unhashable type: 'list'"),
        ('text = 1', "cannot be read as a config: KeyError: 'text is reserved"),
    ],
)
def test_no_config_is_told_in_a_sentence(text, words):
    with pytest.raises(UserError, match=f'^it.*{words}'):
        config_of_text(text, 'it')


@pytest.mark.parametrize('content', [b'\xff\xfe\0', b'\x80\x02}', None])
def test_a_file_that_is_no_text(content, tmp_path):
    path = tmp_path / 'config.py'
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match='config.py cannot be read as a config'):
        read_config(path)


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        (
            'x = 1\ny = 1 / 0',
            'line 2: ZeroDivisionError: division by zero',
        ),
        ('import sys\nsys.exit("bye")', 'line 2: SystemExit: bye'),
        ('x = (', "line 1: '.' was never closed"),
    ],
)
def test_a_trusted_config_is_run_and_its_failure_is_a_sentence(text, words, tmp_path):
    with trusting(True):
        assert config_of_text('x = 1 + 1', 'it').x == 2
        with pytest.raises(UserError, match=f'^it cannot be read as a config: {words}'):
            config_of_text(text, 'it')
        (tmp_path / 'config.py').write_text(text)
        with pytest.raises(UserError, match=f'config.py cannot be read as a config: {words}'):
            read_config(tmp_path / 'config.py')


def test_a_type_names_a_registered_class_and_no_function_of_a_module(tmp_path):
    trace = tmp_path / 'trace'
    call = dict(type='os.mkdir', path=str(trace))
    with only_registered(), pytest.raises(KeyError, match='os.mkdir is not in the'):
        MODELS.build(call)
    assert not trace.exists()
    with only_registered():
        assert MODELS.build(dict(type='mmdet.ChannelMapper', in_channels=[1], out_channels=1))
    with trusting(True), only_registered():
        MODELS.build(call)
    assert trace.exists()


def test_a_scope_imports_no_package_that_is_not_in_use(tmp_path, monkeypatch):
    (tmp_path / 'strange_package').mkdir()
    (tmp_path / 'strange_package' / 'registry.py').write_text('raise SystemExit')
    monkeypatch.syspath_prepend(tmp_path)
    with only_registered(), pytest.raises(KeyError):
        MODELS.build(dict(type='strange_package.Thing'))


def running(code):
    """A config in which mmcv, mmdet or MMEngine would run it, by what does so."""
    boxes, scores = torch.tensor([[0.0, 0, 9, 9]]), torch.ones(1)
    moved = dict(type='mmdet.CameraMotionCompensation', warp_mode=code)
    return {
        'nms': lambda: batched_nms(boxes, scores, torch.zeros(1), dict(type=code, iou_threshold=1)),
        'warp_mode': lambda: TASK_UTILS.build(moved),
    }


@pytest.mark.parametrize('place', ['nms', 'warp_mode'])
def test_texts_that_libraries_run_as_python_are_names(place, tmp_path):
    trace = tmp_path / 'trace'
    code = f'__import__("os").mkdir({str(trace)!r})'
    for text in (code, 'torch.hub.load', 'nowhere', ''):
        with only_registered(), pytest.raises(UserError, match='would run as Python; say --trust'):
            running(text)[place]()
    assert not trace.exists()
    with only_registered():
        running('nms')['nms']()
        running('cv2.MOTION_EUCLIDEAN')['warp_mode']()
    with trusting(True), only_registered(), suppress(TypeError):
        running(code)[place]()
    assert trace.exists()


@pytest.mark.parametrize('suffix', ['pkl', 'pickle', 'yaml', 'yml'])
def test_files_that_can_run_code_are_not_read_for_a_config(suffix, tmp_path):
    path = tmp_path / f'weights.{suffix}'
    path.write_bytes(pickle.dumps([1, 2]) if suffix.startswith('p') else b'[1, 2]')
    loss = dict(type='mmseg.CrossEntropyLoss', class_weight=str(path))
    with only_registered(), pytest.raises(TypeError, match=f'Unsupported format: {suffix}'):
        MODELS.build(loss)
    assert MODELS.build(loss).class_weight == [1, 2]


def test_pictures_are_not_read_as_pickles():
    with only_registered(), pytest.raises(UserError, match='which can run any code'):
        datafrombytes(pickle.dumps(1), backend='pickle')
    assert datafrombytes(pickle.dumps(1), backend='pickle') == 1
