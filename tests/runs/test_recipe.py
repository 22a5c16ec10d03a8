"""How the recipes of runs differ."""

from functools import partial

import pytest
from support_runs import PIPELINE, write_run

from mambaout_mm.runs.reading import read_run
from mambaout_mm.runs.recipe import group_by_recipe, recipe_differences


@pytest.fixture
def make_run(tmp_path):
    return partial(write_run, tmp_path)


PATH = 'train_dataloader.dataset.pipeline'


@pytest.mark.parametrize(
    ('options', 'aspect', 'where', 'values'),
    [
        (
            {'optim_wrapper.type': 'AmpOptimWrapper', 'optim_wrapper.loss_scale': 'dynamic'},
            'precision',
            '',
            ('fp32', 'AMP (float16, loss scale dynamic)'),
        ),
        (
            {'train_dataloader.batch_size': 2, 'optim_wrapper.accumulative_counts': 4},
            'total batch',
            '',
            ('16 (4 x 4 processes)', '32 (2 x 4 processes x 4 accumulated)'),
        ),
        ({'optim_wrapper.optimizer.lr': 2e-4}, 'optimizer', '', ('lr 0.0001', 'lr 0.0002')),
        (
            {'auto_scale_lr.enable': True},
            'optimizer',
            '',
            ('not set', 'lr scaled from a batch of 16'),
        ),
        (
            {'optim_wrapper.paramwise_cfg': dict(norm_decay_mult=0.0)},
            'optimizer',
            'optim_wrapper.paramwise_cfg.norm_decay_mult',
            ('not set', '0.0'),
        ),
        (
            {'train_cfg.max_epochs': 12, 'param_scheduler.1.milestones': [8, 11]},
            'schedule',
            '',
            (
                '3 epochs; MultiStepLR over epochs 0 to 3, gamma 0.1, milestones [2]',
                '12 epochs; MultiStepLR over epochs 0 to 3, gamma 0.1, milestones [8, 11]',
            ),
        ),
        ({'train_cfg.val_interval': 3}, 'schedule', 'train_cfg.val_interval', ('1', '3')),
        (
            {f'{PATH}.1.scale': (800, 600)},
            'data',
            f'{PATH}.Resize.scale',
            ('[1333, 800]', '[800, 600]'),
        ),
        (
            {PATH: [PIPELINE[0], dict(type='RandomCrop', crop_size=8), *PIPELINE[1:]]},
            'data',
            f'{PATH}.RandomCrop',
            ('not set', 'RandomCrop'),
        ),
        (
            {PATH: [PIPELINE[0], PIPELINE[2], PIPELINE[1]]},
            'data',
            f'{PATH} (order)',
            (
                'LoadImageFromFile, Resize, RandomFlip',
                'LoadImageFromFile, RandomFlip, Resize',
            ),
        ),
        (
            {'model.backbone.init_cfg': None},
            'initialisation',
            '',
            ('backbone mambaout://tiny', 'backbone random'),
        ),
        (
            {'load_from': 'other.pth'},
            'initialisation',
            '',
            ('backbone mambaout://tiny', 'whole model other.pth'),
        ),
        (
            {'model.neck.init_cfg': dict(type='Xavier')},
            'initialisation',
            'model.neck.init_cfg',
            ('not set', 'Xavier'),
        ),
        ({'model.backbone.drop_path_rate': 0.3}, 'drop path', '', ('0.2', '0.3')),
        (
            {'model.backbone.type': 'VMamba', 'model.backbone.dims': 96},
            'model',
            'model.backbone',
            ('MambaOut tiny', 'VMamba tiny'),
        ),
        (
            {'model.neck.norm_cfg': dict(type='BN')},
            'model',
            'model.neck.norm_cfg',
            ('not set', 'BN'),
        ),
        (
            {'custom_hooks': [dict(type='EMAHook')]},
            'other',
            'custom_hooks.EMAHook',
            ('not set', 'EMAHook'),
        ),
    ],
)
def test_recipe_differences(options, aspect, where, values, make_run):
    runs = [read_run(make_run('a')), read_run(make_run('b', options=options))]
    assert recipe_differences(runs) == [(aspect, where, values)]


@pytest.mark.parametrize(
    'options',
    [
        {'work_dir': 'elsewhere'},
        {'train_dataloader.num_workers': 0},
        {'model.backbone.with_cp': True},
        {'model.neck.init_cfg': None, 'custom_hooks': []},
        {'optim_wrapper.optimizer.fused': False},
        {'default_hooks.logger.interval': 1, 'visualizer': dict(type='LocalVisualizer')},
        {'train_pipeline': 'a variable of the config file'},
        {'auto_scale_lr.base_batch_size': 32},
        {'train_dataloader.dataset.type': 'mmdet.CocoDataset'},
    ],
)
def test_what_changes_no_result_is_no_difference(options, make_run):
    runs = [read_run(make_run('a')), read_run(make_run('b', options=options))]
    assert recipe_differences(runs) == []


def test_processes_and_seed_come_from_the_log(make_run):
    runs = [read_run(make_run('a')), read_run(make_run('b', processes=8, seed=2))]
    assert recipe_differences(runs) == [
        ('total batch', '', ('16 (4 x 4 processes)', '32 (4 x 8 processes)')),
        ('seed', '', ('1', '2')),
    ]
    for log in runs[1].folder.glob('*/*.log'):
        log.write_text('2026/11/21 - mmengine - INFO - no environment\n')
    batch, seed = recipe_differences([runs[0], read_run(runs[1].folder)])
    assert batch.values[1] == '4 a process; the log does not say how many processes'
    assert seed.values == ('1', 'not in the log')


def test_runs_that_differ_in_the_seed_alone_are_one_group(make_run):
    folders = [
        make_run('a', seed=1, options={'train_cfg.max_epochs': 2}),
        make_run('b', seed=2, options={'train_cfg.max_epochs': 2}),
        make_run('other', seed=2),
        make_run('c', seed=3, options={'train_cfg.max_epochs': 2}),
    ]
    assert list(group_by_recipe(map(read_run, folders))) == ['a + b + c', 'other']
