"""The configs' own data pipelines, on a handful of files laid out as COCO and ADE20K are."""

import json

import cv2
import numpy as np
import pytest
from mmdet.datasets import CocoDataset
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from support import CONFIGS, ROOT

NAMES = CocoDataset.METAINFO['classes']


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """A folder with data/coco and data/ade: three images of 200x150 in each split."""
    folder = tmp_path_factory.mktemp('published')
    rng = np.random.default_rng(0)
    coco = folder / 'data' / 'coco'
    ade = folder / 'data' / 'ade' / 'ADEChallengeData2016'
    (coco / 'annotations').mkdir(parents=True)
    for split, ade_split in (('train', 'training'), ('val', 'validation')):
        for path in (coco / f'{split}2017', ade / f'images/{ade_split}'):
            path.mkdir(parents=True)
        (ade / f'annotations/{ade_split}').mkdir(parents=True)
        content = dict(
            images=[],
            annotations=[],
            categories=[dict(id=3 * k + 1, name=name) for k, name in enumerate(NAMES)],  # with gaps
        )
        for i in range(3):
            image = rng.integers(0, 256, (150, 200, 3), dtype=np.uint8)
            cv2.imwrite(str(coco / f'{split}2017' / f'{i}.jpg'), image)
            content['images'].append(dict(id=i, file_name=f'{i}.jpg', width=200, height=150))
            for k in range(2):
                x, y, w, h = 20 + 60 * k, 30, 50, 80
                content['annotations'].append(
                    dict(
                        id=2 * i + k,
                        image_id=i,
                        category_id=3 * (i + k) + 1,
                        bbox=[x, y, w, h],
                        area=w * h,
                        iscrowd=0,
                        segmentation=[[x, y, x + w, y, x + w, y + h, x, y + h]],
                    )
                )
            cv2.imwrite(str(ade / f'images/{ade_split}/{i}.jpg'), image)
            labels = rng.integers(0, 151, (15, 20)).repeat(10, 0).repeat(10, 1)
            cv2.imwrite(str(ade / f'annotations/{ade_split}/{i}.png'), labels.astype(np.uint8))
        (coco / f'annotations/instances_{split}2017.json').write_text(json.dumps(content))
    return folder


def batch_of(loader, pipeline=None):
    loader = {**loader, 'num_workers': 0, 'persistent_workers': False, 'batch_size': 2}
    if pipeline is not None:
        loader['dataset'] = {**loader['dataset'], 'pipeline': pipeline}
    return next(iter(Runner.build_dataloader(Config(loader))))


# The other families have the same data as one of these: test_one_recipe in test_configs.py.
@pytest.mark.parametrize(
    'path', [p for p in CONFIGS if '_mambaout_' in p.stem], ids=lambda p: p.stem
)
def test_training_and_test_pipelines(path, data, monkeypatch):
    monkeypatch.chdir(data)
    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    train, val = batch_of(cfg.train_dataloader), batch_of(cfg.val_dataloader)
    assert len(train['inputs']) == 2
    for image, sample in zip(train['inputs'], train['data_samples'], strict=True):
        height, width = image.shape[1:]
        if 'segmentation' in path.parts:
            assert max(height, width) <= 512  # the preprocessor pads to 512
            labels = np.unique(sample.gt_sem_seg.data.numpy())
            assert set(labels) <= {*range(150), 255} and len(labels) > 5
        else:
            assert max(height, width) <= 1333 and min(height, width) <= 800
            if not path.stem.endswith('_3x'):
                assert (height, width) == (800, 1067)
            instances = sample.gt_instances
            assert instances.bboxes.shape[0] <= 2
            assert ('masks' in instances) == ('retinanet' not in path.stem)
    if 'segmentation' in path.parts:
        assert val['inputs'][0].shape == (3, 512, 683)
        assert val['data_samples'][0].gt_sem_seg.data.shape == (1, 150, 200)
        views = batch_of(cfg.test_dataloader, cfg.tta_pipeline)
        assert len(views['inputs']) == 12  # six scales, flipped and not
    else:
        assert val['inputs'][0].shape == (3, 800, 1067)
        assert val['data_samples'][1].gt_instances.labels.tolist() == [1, 2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ('config', 'options', 'words'),
    [
        (
            'detection/maskrcnn_mambaout_femto.py',
            [
                'train_cfg.max_epochs=1',
                'train_dataloader.batch_size=1',
                'train_dataloader.dataset.indices=1',
            ],
            'Epoch(val) [1][1/1]',  # one epoch of warm-up detects nothing, so there is no AP
        ),
        (
            'segmentation/upernet_mambaout_femto.py',
            ['train_cfg.max_iters=1', 'train_cfg.val_interval=1', 'train_dataloader.batch_size=2'],
            'mIoU',
        ),
    ],
    ids=['detection', 'segmentation'],
)
def test_trains_as_published_at_full_size(config, options, words, data, run_tool, monkeypatch):
    """The config untouched but for its length, its batch, and the weights to start from."""
    monkeypatch.chdir(data)
    options += ['model.backbone.init_cfg=None', 'val_dataloader.dataset.indices=1']
    options += ['default_hooks.logger.interval=1']
    code, out, err = run_tool('train.py', ROOT / 'configs' / config, '--cfg-options', *options)
    assert code == 0, err[-3000:]
    assert words in out + err
    assert "the recipe's is 16" in out + err  # the batch was changed
