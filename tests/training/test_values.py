"""Numbers that no training can use are told before anything is built."""

import pytest
from mmengine.config import Config
from support import CONFIGS, ROOT

from mambaout_mm.errors import UserError
from mambaout_mm.training.values import check_values

MASKRCNN = ROOT / 'configs' / 'detection' / 'maskrcnn_mambaout_femto.py'


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_our_own_configs_are_right(path):
    cfg = Config.fromfile(path)
    check_values(cfg, 'training')
    check_values(cfg, 'testing')


@pytest.mark.parametrize(
    ('place', 'value', 'words'),
    [
        ('train_dataloader.batch_size', 0, 'must be a whole number from 1, not 0'),
        ('train_dataloader.batch_size', 2.5, 'must be a whole number from 1, not 2.5'),
        ('train_dataloader.batch_size', None, 'not None'),
        ('train_dataloader.batch_size', True, 'not True'),
        ('val_dataloader.num_workers', -1, 'must be a whole number from 0, not -1'),
        ('optim_wrapper.optimizer.lr', 'fast', "must be a number from 0, not 'fast'"),
        ('optim_wrapper.optimizer.lr', -1e-3, 'not -0.001'),
        ('optim_wrapper.optimizer.lr', float('nan'), 'not nan'),
        ('optim_wrapper.optimizer.lr', float('inf'), 'not inf'),
        ('train_cfg.max_epochs', 0, 'must be a whole number from 1, not 0'),
        ('train_cfg.val_interval', 0, 'must be a whole number from 1, not 0'),
        ('train_cfg.max_iters', 10, 'train_cfg must have one of max_epochs and max_iters'),
        ('model.backbone.drop_path_rate', 2, 'must be a number from 0 to below 1, not 2'),
        ('model.backbone.drop_path_rate', 1, 'not 1'),
        ('model.roi_head.bbox_head.num_classes', 0, 'must be a whole number from 1, not 0'),
        ('default_hooks.checkpoint.interval', 0, 'must be a whole number from 1, not 0'),
        ('randomness', dict(seed=-1), 'randomness.seed must be a whole number from 0 to'),
        ('param_scheduler.0.end', 0, 'must be a whole number from 1, not 0'),
        ('model.test_cfg.rcnn.score_thr', 5, 'must be a number from 0 to 1, not 5'),
        ('model.backbone', 'MambaOut', "model.backbone must be a dict, not 'MambaOut'"),
        ('train_dataloader', [1], r'train_dataloader must be a dict, not \[1\]'),
        ('model.neck.type', ['FPN'], r"model.neck.type must be the name of a class, not \['FPN'\]"),
        ('model.data_preprocessor', None, 'model.data_preprocessor must be a dict, not None'),
        ('model.neck', 5, 'model.neck must be a dict, a list of dicts or None, not 5'),
        ('model.backbone.init_cfg', 'x.pth', "must be a dict, a list of dicts or None, not 'x.pth"),
        ('model.backbone.init_cfg', [1], r'must be a dict, a list of dicts or None, not \[1\]'),
        ('model.rpn_head.anchor_generator.strides', 5, 'strides must be a list, not 5'),
        ('train_dataloader.sampler', None, 'train_dataloader.sampler must be a dict, not None'),
        ('train_dataloader.dataset.ann_file', 5, 'must be the path of a file or None, not 5'),
        ('train_dataloader.dataset.data_root', 5, 'must be the path of a folder or None, not 5'),
        ('train_dataloader.dataset.data_prefix', dict(img=5), 'must be a dict of paths, not'),
        ('train_dataloader.dataset.metainfo', dict(classes=5), 'must be a list of names, not 5'),
        ('train_dataloader.dataset.filter_cfg', 'empty', "must be a dict, not 'empty'"),
        ('train_dataloader.dataset.backend_args', 5, 'backend_args must be a dict, not 5'),
        ('train_dataloader.dataset.indices', 'a', "a whole number or a list of them, not 'a'"),
        ('train_dataloader.dataset.indices', 2.5, 'a whole number or a list of them, not 2.5'),
        ('train_dataloader.dataset.pipeline', None, 'pipeline must be a list of dicts, not None'),
        ('train_dataloader.dataset.pipeline', ['a'], 'pipeline must be a list of dicts, not'),
        (
            'val_dataloader.sampler.type',
            'InfiniteSampler',
            'which never ends; write DefaultSampler',
        ),
        ('train_dataloader.sampler.type', 'InfiniteSampler', 'train_.*which never ends'),
        ('val_evaluator.metric', 5, 'metric must be a name or a list of names, not 5'),
        ('val_evaluator', 3, 'val_evaluator must be a dict or a list of dicts, not 3'),
        ('optim_wrapper.optimizer.type', 'AdmaW', "no optimizer 'AdmaW'; did you mean .*AdamW"),
        ('train_dataloader', None, 'the config has no train_dataloader, which training needs'),
    ],
)
def test_what_cannot_be_used(place, value, words):
    cfg = Config.fromfile(MASKRCNN)
    if place == 'train_cfg.max_iters':
        del cfg.train_cfg['type']
    cfg.merge_from_dict({place: value})
    with pytest.raises(UserError, match=words):
        check_values(cfg, 'training')


def test_all_mistakes_are_told_at_once():
    cfg = Config.fromfile(MASKRCNN)
    cfg.merge_from_dict({'train_cfg.max_epochs': 0, 'val_dataloader.batch_size': 'many'})
    with pytest.raises(UserError, match=r'max_epochs .*; ?.*batch_size|batch_size .*max_epochs'):
        check_values(cfg, 'training')
