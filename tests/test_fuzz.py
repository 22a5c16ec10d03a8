"""Whatever a file or a config holds, its reader takes it or says in a sentence why not.

Each case damages one thing at random, by its seed: a failure names the seed, and runs again alone.
"""

import copy
import io
import json
import random

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from support import ROOT

from mambaout_mm.checkpoints import read_checkpoint
from mambaout_mm.comparison.records import Record
from mambaout_mm.comparison.store import Store
from mambaout_mm.config_tree import dicts_in
from mambaout_mm.demo.settings import apply_demo
from mambaout_mm.errors import UserError
from mambaout_mm.literal_config import config_of_text
from mambaout_mm.runs.reading import read_run
from mambaout_mm.training.checks import (
    check_data,
    check_num_classes,
    errors_are_config_errors,
    load_config,
)
from mambaout_mm.training.data_checks import check_contents
from mambaout_mm.training.failures import build_runner
from mambaout_mm.training.loading import NamingRunner
from mambaout_mm.training.parts import check_parts
from mambaout_mm.training.prediction_files import read_predictions, write_detections
from mambaout_mm.training.seeding import seed_by_place
from mambaout_mm.training.values import check_values

MASKRCNN = ROOT / 'configs' / 'detection' / 'maskrcnn_mambaout_femto.py'
UPERNET = ROOT / 'configs' / 'segmentation' / 'upernet_mambaout_femto.py'
FEW = ('0000', '0001', '0002')  # images
ODD = (
    None, True, 0, -1, 10**30, 2.5, float('nan'), float('inf'), '', 'word', '1', [], [0], [None],
    [[]], {}, {'type': 'word'}, {'': 0}, (), 'ß\n', b'\x00', 'x' * 300,
)  # fmt: skip


def one_sentence(error):
    message = str(error)
    assert message and 'Traceback' not in message
    assert len(message) < 3000


def damaged(content, draw):
    """Bytes cut, changed, repeated or replaced."""
    content = bytearray(content)
    kind = draw.randrange(5)
    if kind == 0:
        return bytes(content[: draw.randrange(len(content))])
    if kind == 1:
        return draw.randbytes(draw.randrange(100))
    if kind == 2:
        at = draw.randrange(len(content))
        return bytes(content[:at] + content[at // 2 :])
    for _ in range(draw.choice((1, 20))):
        content[draw.randrange(len(content))] = draw.randrange(256)
    return bytes(content)


def change_somewhere(tree, draw):
    """Replace, remove or add a value at a random place of a tree of dicts and lists."""
    places = [(node, key) for _, node in dicts_in(tree) for key in list(node)]
    for _, node in list(dicts_in(tree)):
        places += [(v, i) for v in node.values() if isinstance(v, list) for i in range(len(v))]
    node, key = draw.choice(places)
    kind = draw.randrange(4)
    if kind == 0:
        del node[key]
    elif kind == 1 and isinstance(node, list):
        node.append(copy.deepcopy(node[key]))
    else:
        node[key] = copy.deepcopy(draw.choice(ODD))


@pytest.fixture
def demo_config(demo_data, tmp_path, monkeypatch):
    """A config with the embedded data, and the folder of these."""
    monkeypatch.chdir(tmp_path)

    def read(path):
        cfg = Config.fromfile(path)
        apply_demo(cfg, demo_data)
        return cfg

    return read


@pytest.mark.parametrize('path', [MASKRCNN, UPERNET], ids=['detection', 'segmentation'])
def test_configs_with_an_odd_value(path, demo_config):
    whole = demo_config(path)
    whole.work_dir = 'work'
    for seed in range(40):
        draw = random.Random(seed)
        tree = whole.to_dict()
        change_somewhere(tree, draw)
        try:
            cfg = Config(tree)
        except Exception:  # MMEngine's own reading of a dict, which a file never reaches
            continue
        try:
            with errors_are_config_errors():
                check_values(cfg, 'training')
                check_parts(cfg)
                check_data(cfg, ('train', 'val'))
                check_num_classes(cfg)
                seed_by_place(cfg)
            if seed % 10 == 0:  # takes longer than all the checks
                build_runner(cfg)
        except UserError as error:
            one_sentence(error)
        except Exception as error:
            raise AssertionError(f'seed {seed}: {error!r}') from error


def test_texts_of_configs(tmp_path):
    text = Config.fromfile(MASKRCNN).pretty_text.encode()
    file = tmp_path / 'config.py'
    for seed in range(150):
        content = damaged(text, random.Random(seed))
        file.write_bytes(content)
        for read in (
            lambda: load_config(str(file)),
            lambda content=content: config_of_text(content.decode(errors='replace'), 'c.py'),
        ):
            try:
                read()
            except UserError as error:
                one_sentence(error)
            except Exception as error:
                raise AssertionError(f'seed {seed}: {error!r}') from error


def test_checkpoints(tmp_path):
    file = tmp_path / 'a.pth'
    meta = dict(epoch=1, iter=2, cfg='a = 1', dataset_meta=dict(classes=('a',)))
    weights = {f'layer{i}.weight': torch.randn(8, 8) for i in range(3)}
    for zipped in (True, False):
        whole = io.BytesIO()
        torch.save(
            dict(meta=meta, state_dict=weights), whole, _use_new_zipfile_serialization=zipped
        )
        for seed in range(150):
            file.write_bytes(damaged(whole.getvalue(), random.Random(seed)))
            try:
                read_checkpoint(str(file))
            except UserError as error:
                one_sentence(error)
            except Exception as error:
                raise AssertionError(f'seed {seed}, zipped {zipped}: {error!r}') from error


@pytest.fixture
def small_data(demo_config, demo_data, tmp_path):
    """The demo's data sets with four images, which may be damaged."""

    def make(path):
        cfg = demo_config(path)
        folder = tmp_path / 'data'
        for old in sorted(demo_data.rglob('*')):
            new = folder / old.relative_to(demo_data)
            if old.is_file() and (old.suffix == '.json' or old.stem in FEW):
                new.parent.mkdir(parents=True, exist_ok=True)
                new.write_bytes(old.read_bytes())
        text = json.dumps(cfg.to_dict()).replace(str(demo_data), str(folder))
        cfg = Config(json.loads(text))
        dataset = cfg.train_dataloader.dataset
        if 'ann_file' in dataset:
            file = next(folder.rglob('*train.json'))
            content = json.loads(file.read_text())
            content['images'] = [
                i for i in content['images'] if i['file_name'].split('.')[0] in FEW
            ]
            ids = {image['id'] for image in content['images']}
            content['annotations'] = [a for a in content['annotations'] if a['image_id'] in ids]
            file.write_text(json.dumps(content))
        return cfg, folder

    return make


def sees_all(cfg, seed):
    """Check a data set, and load all that passes."""
    init_default_scope(cfg.default_scope)
    try:
        check_contents(cfg, ('train',))
        dataset = DATASETS.build(cfg.train_dataloader.dataset)
        loader = NamingRunner.build_dataloader(
            dict(dataset=dataset, batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler'))
        )
        for i in range(len(loader.dataset)):
            loader.dataset[i]
    except UserError as error:
        one_sentence(error)
    except Exception as error:
        raise AssertionError(f'seed {seed}: {error!r}') from error


def test_annotations(small_data):
    cfg, folder = small_data(MASKRCNN)
    file = next(folder.rglob('*train.json'))
    whole = json.loads(file.read_text())
    for seed in range(60):
        draw = random.Random(seed)
        content = copy.deepcopy(whole)
        change_somewhere(content, draw)
        file.write_text(json.dumps(content, default=str))
        sees_all(cfg, seed)
    for seed in range(20):
        file.write_bytes(damaged(json.dumps(whole).encode(), random.Random(seed)))
        sees_all(cfg, seed)


@pytest.mark.parametrize('kind', ['images', 'labels'])
def test_images_and_label_maps(small_data, kind):
    cfg, folder = small_data(UPERNET)
    files = sorted(p for p in folder.rglob('*.png') if kind in p.parts and 'train' in str(p))
    for seed in range(40):
        draw = random.Random(seed)
        file = draw.choice(files)
        whole = file.read_bytes()
        file.write_bytes(damaged(whole, draw))
        sees_all(cfg, seed)
        file.write_bytes(whole)


def test_results_and_logs_and_predictions(tmp_path):
    results = tmp_path / 'results.jsonl'
    store = Store(results)
    fields = dict(section='cost', quantity='parameters', value=1.0, unit='M', origin='measured')
    for i in range(3):
        store.put([Record(backbone=f'b{i}', **fields)], backbone=i)
    run = tmp_path / 'run' / '20260101_000000' / 'vis_data'
    run.mkdir(parents=True)
    log = ''.join(json.dumps(dict(loss=1.0, iter=i, step=i)) + '\n' for i in range(5))
    log += json.dumps({'coco/bbox_mAP': 0.5, 'step': 5}) + '\n'
    config = "train_cfg = dict(max_iters=5)\nmodel = dict(type='MaskRCNN')\n"
    found = dict(bboxes=np.ones((2, 4), 'f'), scores=np.ones(2, 'f'), labels=np.zeros(2, int))
    write_detections(tmp_path / 'predictions.npz', [dict(img_id=1, pred_instances=found)])
    whole = {
        results: results.read_bytes(),
        run / 'scalars.json': log.encode(),
        run / 'config.py': config.encode(),
        tmp_path / 'predictions.npz': (tmp_path / 'predictions.npz').read_bytes(),
    }
    for seed in range(150):
        draw = random.Random(seed)
        for path, content in whole.items():
            path.write_bytes(content)
        path = draw.choice(list(whole))
        path.write_bytes(damaged(whole[path], draw))
        for read in (
            lambda: Store(results),
            lambda: read_run(tmp_path / 'run'),
            lambda: read_predictions(tmp_path / 'predictions.npz'),
        ):
            try:
                read()
            except UserError as error:
                one_sentence(error)
            except Exception as error:
                raise AssertionError(f'seed {seed}, {path.name}: {error!r}') from error
