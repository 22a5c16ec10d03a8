"""Predictions with checkpoints, pictures and arguments that are not as they should be."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from support import ROOT

from mambaout_mm.demo import apply_demo
from mambaout_mm.errors import UserError
from mambaout_mm.inference import infer

UPERNET = ROOT / 'configs' / 'segmentation' / 'upernet_mambaout_femto.py'


@pytest.fixture(scope='module')
def content(demo_data):
    """What a Runner saves of a segmentor, with random weights."""
    cfg = Config.fromfile(UPERNET)
    apply_demo(cfg, demo_data)
    cfg.model.backbone.init_cfg = None
    init_default_scope('mmseg')
    meta = dict(dataset_meta=dict(classes=list('abcd'), palette=[[0, 0, 0]] * 4))
    meta['cfg'] = Config(cfg.to_dict(), format_python_code=False).pretty_text
    return dict(meta=meta, state_dict=MODELS.build(cfg.model).state_dict())


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """The folder ``in``, with one picture, in the working directory."""
    monkeypatch.chdir(tmp_path)
    Path('in').mkdir()
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    cv2.imwrite('in/a.png', image)
    return Path('in')


@pytest.fixture
def checkpoint(content, pictures):
    torch.save(content, 'whole.pth')
    return 'whole.pth'


def spoilt(content, path='spoilt.pth', **meta):
    torch.save(dict(content, meta={**content['meta'], **meta}), path)
    return path


def test_the_config_inside_is_data_unless_trusted(content, pictures):
    text = content['meta']['cfg'] + '\n__import__("pathlib").Path("ran").touch()\n'
    file = spoilt(content, cfg=text)
    with pytest.raises(UserError, match=r"the config inside 'spoilt.pth', line .*say --trust"):
        infer(['in'], file)
    assert not Path('ran').exists()
    assert [p.name for p in infer(['in'], file, trust=True)] == ['a.png']
    assert Path('ran').exists()


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        ({'model': None}, "'model'|NoneType"),
        ({'model.backbone.type': 'os.mkdir'}, 'os.mkdir is not in the'),
        ({'model.backbone.type': 'Nonsense'}, 'Nonsense is not in the'),
        ({'model.backbone.arch': 'nonsense'}, "unknown MambaOut arch 'nonsense'"),
        ({'test_dataloader': 'nonsense'}, "no attribute 'dataset'"),
        ({'visualizer': dict(type='os.mkdir')}, 'os.mkdir is not in the'),
    ],
)
def test_a_config_inside_that_builds_nothing(options, words, content, pictures):
    cfg = Config.fromstring(content['meta']['cfg'], '.py')
    cfg.merge_from_dict(options)
    text = Config(cfg.to_dict(), format_python_code=False).pretty_text
    with pytest.raises(UserError, match=words):
        infer(['in'], spoilt(content, cfg=text))
    assert not Path('infer').exists()


@pytest.mark.parametrize(
    ('meta', 'words'),
    [
        (dict(cfg=None), 'has no config inside; name it with --config'),
        (dict(cfg=b'model = 1'), 'has no config inside; name it with --config'),
        (dict(dataset_meta=dict(palette=1)), "cannot be used for predictions: 'classes'"),
        (dict(dataset_meta=[1]), 'cannot be used for predictions'),
    ],
)
def test_other_meta_than_a_runners(meta, words, content, pictures):
    with pytest.raises(UserError, match=words):
        infer(['in'], spoilt(content, **meta))


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (dict(out_dir='in/a.png'), "--out-dir 'in/a.png' cannot be used: 'in/a.png' is a file"),
        (dict(out_dir='in/a.png/b'), "--out-dir .* 'in/a.png' is a file"),
        (dict(device='cudaa'), "--device 'cudaa' cannot be used here"),
        (dict(device='meta'), "--device 'meta' cannot be used here"),
        (dict(device='cuda:77'), "--device 'cuda:77' cannot be used here"),
        (dict(device='cpu:x'), "--device 'cpu:x' cannot be used here"),
        (dict(score_thr=float('nan')), '--score-thr nan is no score'),
        (dict(score_thr=2.0), '--score-thr 2.0 is no score; give a number from 0 to 1'),
        (dict(inputs=['x' * 300]), 'no picture at'),
    ],
)
def test_arguments_are_checked_before_the_model_is_read(arguments, words, pictures):
    with pytest.raises(UserError, match=words):
        infer(**dict(inputs=['in'], checkpoint='nowhere.pth') | arguments)


def test_names_as_long_as_they_can_be(checkpoint, pictures):
    """The names of results are longer than the pictures'; two that begin alike stay two."""
    names = ['n' * 251, 'n' * 250 + 'm', 'é' * 125]
    for name in names:
        (pictures / f'{name}.png').write_bytes((pictures / 'a.png').read_bytes())
    overlays = infer(['in'], checkpoint)
    assert len({p.name for p in overlays}) == 1 + len(names)
    shown = [json.loads(p.read_text()) for p in Path('outputs/predictions').glob('*.json')]
    assert {Path(s['image']).stem for s in shown} == {'a', *names}
    assert all(Path('outputs/predictions', s['label_map']).is_file() for s in shown)


def test_pictures_that_cannot_be_predicted_are_named_and_the_others_are_there(
    checkpoint, pictures, monkeypatch
):
    for name, size in (('wide', (1, 4000)), ('tall', (20000, 2)), ('dot', (1, 1))):
        cv2.imwrite(f'in/{name}.png', np.zeros((*size, 3), np.uint8))
    Path('in/linked.png').symlink_to('.')  # a folder, as far as reading it goes
    found = [*sorted(pictures.glob('*.png')), Path('in/gone.png')]
    monkeypatch.setattr('mambaout_mm.inference.find_pictures', lambda inputs: found)
    with pytest.raises(UserError, match='of 6 pictures have no prediction') as failed:
        infer(['in'], checkpoint)
    message = str(failed.value)
    assert 'in/gone.png (' in message and 'in/linked.png (' in message
    done = {p.stem for p in Path('outputs/overlays').glob('*.png')}
    assert 'a' in done
    assert all(p.stem in done or f'{p} (' in message for p in found)


def test_a_result_that_cannot_be_written_does_not_end_the_others(checkpoint, pictures):
    (pictures / 'b.png').write_bytes((pictures / 'a.png').read_bytes())
    Path('outputs/overlays/a.png').mkdir(parents=True)
    with pytest.raises(UserError, match=r"1 of 2 pictures .*\n.*overlays/a.png' cannot be written"):
        infer(['in'], checkpoint)
    assert Path('outputs/overlays/b.png').is_file()
