"""The configs' own data pipelines, on a handful of files laid out as COCO and ADE20K are."""

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from support import CONFIGS, ROOT


def batch_of(loader, pipeline=None):
    loader = {**loader, 'num_workers': 0, 'persistent_workers': False, 'batch_size': 2}
    if pipeline is not None:
        loader['dataset'] = {**loader['dataset'], 'pipeline': pipeline}
    return next(iter(Runner.build_dataloader(Config(loader))))


# All others have the same data as one of these: test_one_recipe in test_configs.py.
@pytest.mark.parametrize(
    'path', [p for p in CONFIGS if p.stem.endswith(('_mambaout_t', '_mambaout_t_3x'))],
    ids=lambda p: p.stem,
)  # fmt: skip
def test_training_and_test_pipelines(path, published_data, monkeypatch):
    monkeypatch.chdir(published_data)
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
            [
                'train_cfg.max_iters=1',
                'train_cfg.val_interval=1',
                'train_dataloader.batch_size=2',
                'model.decode_head.channels=64',  # which takes most of the time
            ],
            'mIoU',
        ),
    ],
    ids=['detection', 'segmentation'],
)
def test_trains_as_published_at_full_size(
    config, options, words, published_data, run_tool, monkeypatch
):
    """Data, images and backbone as published; shorter, from random weights, with a thinner head."""
    monkeypatch.chdir(published_data)
    options += ['model.backbone.init_cfg=None', 'val_dataloader.dataset.indices=1']
    options += ['default_hooks.logger.interval=1']
    code, out, err = run_tool('train.py', ROOT / 'configs' / config, '--cfg-options', *options)
    assert code == 0, err[-3000:]
    assert words in out + err
    assert "the recipe's is 16" in out + err  # the batch was changed
