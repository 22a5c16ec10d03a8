"""What is read from the work dirs of MMEngine, written here as it writes them."""

import copy
import json
import math
import pickle
import re

import cv2
import numpy as np
import pytest
from mmengine.config import Config

from mambaout_mm.comparison.records import to_frame
from mambaout_mm.comparison.sections.runs import run_records
from mambaout_mm.errors import UserError
from mambaout_mm.runs.reading import read_run
from mambaout_mm.runs.recipe import group_by_recipe, recipe_differences
from mambaout_mm.training.prediction_files import write_label_maps
from mambaout_mm.trust import trusting

PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(1333, 800), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
]
DATASET = dict(type='CocoDataset', ann_file='annotations/train.json', pipeline=PIPELINE)
DETECTION = dict(
    default_scope='mmdet',
    model=dict(
        type='MaskRCNN',
        backbone=dict(
            type='mambaout_mm.MambaOut',
            arch='tiny',
            drop_path_rate=0.2,
            with_cp=False,
            init_cfg=dict(type='Pretrained', checkpoint='mambaout://tiny'),
        ),
        neck=dict(type='FPN', in_channels=[96, 192, 384, 576]),
    ),
    train_dataloader=dict(batch_size=4, num_workers=4, dataset=DATASET),
    val_evaluator=dict(type='CocoMetric', ann_file='val.json', metric=['bbox', 'segm']),
    train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=3, val_interval=1),
    optim_wrapper=dict(
        type='OptimWrapper',
        optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.05, fused=True),
    ),
    param_scheduler=[
        dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=1000),
        dict(type='MultiStepLR', begin=0, end=3, by_epoch=True, milestones=[2], gamma=0.1),
    ],
    auto_scale_lr=dict(enable=False, base_batch_size=16),
    default_hooks=dict(logger=dict(type='LoggerHook', interval=50)),
    randomness=dict(seed=None),
    load_from=None,
    resume=False,
    work_dir='work_dirs/some',
)
SEGMENTATION = dict(
    default_scope='mmseg',
    model=dict(type='EncoderDecoder', decode_head=dict(type='UPerHead', num_classes=2)),
    train_dataloader=dict(batch_size=4, dataset=dict(type='ADE20KDataset')),
    val_evaluator=dict(type='IoUMetric', iou_metrics=['mIoU']),
    test_evaluator=dict(type='IoUMetric', iou_metrics=['mIoU']),
    train_cfg=dict(type='IterBasedTrainLoop', max_iters=200, val_interval=100),
    optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01)),
    param_scheduler=dict(type='PolyLR', power=0.9, begin=0, end=200, by_epoch=False),
    default_hooks=dict(logger=dict(type='LoggerHook', log_metric_by_epoch=False)),
    resume=False,
)
ENVIRONMENT = """2026/11/21 15:16:43 - mmengine - INFO -
System environment:
    numpy_random_seed: 99
Runtime environment:
    dist_cfg: {{'backend': 'nccl'}}
    seed: {seed}
    Distributed launcher: pytorch
    Distributed training: True
    GPU number: {processes}
"""


def write_start(folder, time, scores, base=DETECTION, first=1, options=None, seed=1, processes=4):
    """One start of a training; ``scores`` of its validations, in a log's unit, from ``first`` on.

    Between two validations there are two training lines: 50 and 100 of 100 iterations.
    """
    cfg = Config(copy.deepcopy(base))
    cfg.merge_from_dict(options or {})
    vis_data = folder / time / 'vis_data'
    vis_data.mkdir(parents=True)
    cfg.dump(vis_data / 'config.py')
    lines = []
    for n, score in enumerate(scores, first):
        for step in (100 * n - 50, 100 * n):
            line = dict(lr=1e-4, loss=2.5, time=0.3, iter=step, step=step)
            lines.append(dict(line, epoch=n) if base is DETECTION else line)
        if score is None:
            continue
        if base is DETECTION:
            metrics = {'coco/bbox_mAP': score, 'coco/bbox_mAP_50': 0.9, 'coco/segm_mAP': score / 2}
            lines.append(dict(metrics, data_time=0.01, time=0.2, step=n))
        else:
            lines.append(dict(aAcc=80.0, mIoU=score, mAcc=50.0, time=0.2, step=100 * n))
    text = ''.join(json.dumps(line) + '\n' for line in lines)
    (vis_data / 'scalars.json').write_text(text)
    log = ENVIRONMENT.format(seed=seed, processes=processes)
    (folder / time / f'{time}.log').write_text(log)
    return folder


@pytest.fixture
def make_run(tmp_path):
    """Write the run of one start: a folder's name, its scores, and how it is different."""

    def make(name, scores=(0.1, 0.3, 0.2), time='20261121_150000', **kwargs):
        return write_start(tmp_path / name, time, scores, **kwargs)

    return make


def test_final_and_best(make_run):
    run = read_run(make_run('a'))
    assert (run.name, run.unit, run.done, run.planned) == ('a', 'epoch', 3, 3)
    assert (run.seed, run.processes, run.best) == (1, 4, 2)
    assert run.validations[2] == {'box AP': 30, 'mask AP': 15}
    records = run_records([make_run('b')])
    found = {(r.quantity, r.setting): (r.value, r.note) for r in records}
    assert found == {
        ('box AP', 'final'): (20, 'epoch 3; one seed: no spread'),
        ('box AP', 'best'): (30, 'epoch 2, chosen by box AP on the validation set itself'),
        ('mask AP', 'final'): (10, 'epoch 3; one seed: no spread'),
        ('mask AP', 'best'): (15, 'epoch 2, chosen by box AP on the validation set itself'),
    }
    assert {(r.section, r.origin, r.model, r.unit) for r in records} == {
        ('runs', 'run', 'Mask R-CNN', '%')
    }
    assert len(to_frame(records)) == 4


def test_segmentation_counts_iterations_and_logs_percent(make_run):
    run = read_run(make_run('a', [40.0, 42.5], base=SEGMENTATION))
    assert (run.unit, run.done, run.planned, run.best) == ('iteration', 200, 200, 200)
    records = run_records([make_run('b', [40.0, 42.5], base=SEGMENTATION)])
    assert records[0][:4] == ('runs', 'b', 'mIoU', 42.5)
    assert records[0].model == 'UperNet'
    assert [r.quantity for r in records[::2]] == ['mIoU', 'mAcc', 'aAcc']


def test_validations_logged_by_epoch_in_a_training_by_iteration(make_run):
    """The logger's default, and then MMEngine writes the number of passes over the data."""
    folder = make_run('a', [40.0, 42.5], base=SEGMENTATION)
    log = folder / '20261121_150000' / 'vis_data' / 'scalars.json'
    log.write_text(log.read_text().replace('0.2, "step": 100', '0.2, "step": 0'))
    log.write_text(log.read_text().replace('0.2, "step": 200', '0.2, "step": 0'))
    config = log.with_name('config.py')
    config.write_text(config.read_text().replace('log_metric_by_epoch=False, ', ''))
    assert list(read_run(folder).validations) == [100, 200]


def test_a_resumed_run_is_joined(make_run):
    """Epoch 2 is there twice, epoch 3 of the first start is of weights that were left behind."""
    folder = make_run('a', [0.1, 0.2, 0.9])
    options = dict(resume=True, load_from='epoch_1.pth', train_cfg=dict(max_epochs=4))
    later = dict(time='20261122_090000', first=2, options=options, seed=7)
    run = read_run(make_run('a', [0.25], **later))
    assert {at: s['box AP'] for at, s in run.validations.items()} == {1: 10, 2: 25}
    assert (run.done, run.planned, run.seed, run.load_from) == (2, 4, 1, None)
    assert folder == run.folder
    assert 'stopped at epoch 2 of 4' in run_records([folder])[0].note


def test_what_a_resumed_run_left_behind_is_not_its_score(make_run):
    """Also before it has validated again."""
    make_run('a', [0.1, 0.2, 0.9])
    later = dict(time='20261122_090000', first=2, options=dict(resume=True))
    assert list(read_run(make_run('a', [None], **later)).validations) == [1]


@pytest.mark.parametrize(('scores', 'left'), [([0.3], {1: 30}), ([], {})])
def test_a_second_start_without_resume_is_another_run(scores, left, make_run):
    make_run('a', [0.1, 0.2, 0.9])
    run = read_run(make_run('a', scores, time='20261122_090000', seed=7))
    assert {at: s['box AP'] for at, s in run.validations.items()} == left
    assert run.seed == 7
    assert run.note == 'without 20261121_150000: training began anew after it'


def test_a_run_whose_start_is_elsewhere_says_so(make_run):
    run = read_run(make_run('a', options=dict(resume=True, load_from='other/epoch_1.pth')))
    assert run.note == 'its start is not here: it resumed other/epoch_1.pth'
    assert run.load_from is None


def test_folders_of_tools_test_are_no_trainings(make_run):
    folder = make_run('a')
    (folder / '20261123_100000' / 'vis_data').mkdir(parents=True)
    (folder / '20261123_100000' / '20261123_100000.json').write_text('{"coco/bbox_mAP": 0.9}')
    assert read_run(folder).final('box AP') == 20


def test_a_run_without_validation_says_so(make_run):
    folder = make_run('a', [None, None])
    final, best, *masks = run_records([folder])
    assert math.isnan(final.value) and math.isnan(best.value)
    assert final.note.startswith('the log has no validation; stopped at epoch 1 of 3')
    assert [r.quantity for r in masks] == ['mask AP'] * 2


def test_one_validation_and_one_without_objects(make_run):
    (final, best, *_) = run_records([make_run('a', [0.3], options={'train_cfg.max_epochs': 1})])
    assert final.note == 'epoch 1, the only validation; one seed: no spread'
    assert best.note == 'epoch 1, the only validation'
    final, best, *_ = run_records([make_run('b', [0.1, 0.3, -1.0])])
    assert math.isnan(final.value) and 'no number for box AP' in final.note
    assert best.value == 30


def test_the_last_line_may_be_cut_short_and_no_other(make_run):
    folder = make_run('a')
    log = folder / '20261121_150000' / 'vis_data' / 'scalars.json'
    whole = log.read_text()
    log.write_text(whole[:-20])
    run = read_run(folder)
    assert (list(run.validations), run.done) == ([1, 2], 2)
    for broken, line in ((whole.replace('"iter": 50, ', '"iter', 1), 1), (whole + '[1]\n', 10)):
        log.write_text(broken)
        with pytest.raises(UserError, match=rf'scalars.json, line {line}, is no log entry'):
            read_run(folder)


@pytest.mark.parametrize(
    'line',
    [
        '"text"',
        '[1, 2]',
        '{"coco/bbox_mAP": 0.1}',
        '{"coco/bbox_mAP": "0.1", "step": 1}',
        '{"coco/bbox_mAP": [0.1], "step": 1}',
        '{"coco/bbox_mAP": null, "step": 1}',
        '{"coco/bbox_mAP": true, "step": 1}',
        '{"coco/bbox_mAP": 1e300, "step": 1}',
        '{"coco/bbox_mAP": Infinity, "step": 1}',
        '{"coco/segm_mAP": 17.5, "step": 1}',
        '{"coco/bbox_mAP": 0.1, "step": "1"}',
        '{"coco/bbox_mAP": 0.1, "step": NaN}',
        '{"coco/bbox_mAP": 0.1, "step": 1.5}',
        '{"coco/bbox_mAP": 0.1, "step": -1}',
        '{"coco/bbox_mAP": 0.1, "step": ' + '9' * 30 + '}',
        '{"coco/bbox_mAP": 0.1, "step": ' + '9' * 5000 + '}',
        '{"loss": 1.0, "iter": [1], "step": 1}',
        '{"loss": 1.0, "iter": 1, "epoch": "two", "step": 1}',
        '[' * 100_000,
    ],
    ids=lambda line: line[:40],
)
def test_a_log_with_odd_values_is_refused_with_the_line(line, make_run):
    folder = make_run('a')
    log = folder / '20261121_150000' / 'vis_data' / 'scalars.json'
    lines = log.read_text().splitlines()
    log.write_text('\n'.join([*lines[:2], line, *lines[2:], '']))
    with pytest.raises(UserError, match=r'scalars.json, line 3, is no log entry of MMEngine \('):
        run_records([folder])


@pytest.mark.parametrize('content', [b'\xff\xfe\0', b'\x80\x02}'])
def test_a_binary_log_is_refused(content, make_run):
    folder = make_run('a')
    (folder / '20261121_150000' / 'vis_data' / 'scalars.json').write_bytes(content)
    with pytest.raises(UserError, match=r'scalars.json is no log of MMEngine'):
        run_records([folder])


def test_a_score_that_is_nan_is_no_number(make_run):
    final, *_ = run_records([make_run('a', [0.1, 0.3, math.nan])])
    assert math.isnan(final.value) and 'no number for box AP' in final.note


@pytest.mark.parametrize(
    ('place', 'value'),
    [
        ('train_cfg', 'text'), ('train_cfg.max_epochs', 'text'), ('train_cfg.max_epochs', 1.5),
        ('train_cfg.max_epochs', True), ('model', 'text'), ('model.backbone', [1]),
        ('optim_wrapper', 3), ('optim_wrapper.optimizer', 'AdamW'), ('train_dataloader', 'text'),
        ('train_dataloader.batch_size', '4'), ('param_scheduler', 'text'), ('load_from', [1]),
        ('default_hooks', 'text'), ('default_hooks.logger', [1]), ('auto_scale_lr', 'text'),
    ],
)  # fmt: skip
def test_a_config_that_is_none_of_a_training_is_refused_with_the_place(place, value, make_run):
    base = copy.deepcopy(DETECTION)
    *path, last = place.split('.')
    node = base
    for key in path:
        node = node[key]
    node[last] = value
    with pytest.raises(UserError, match=rf'config.py: {place} is .*, not a'):
        run_records([make_run('a', options=base)])


@pytest.mark.parametrize(
    'options',
    [
        {'model': None}, {'model.backbone.init_cfg': [dict(type='Constant'), dict(checkpoint='a')]},
        {'model.decode_head': [dict(type='FCNHead')]}, {'param_scheduler': None},
        {'optim_wrapper': None}, {'train_cfg': None}, {'val_evaluator': 'text'},
        {'default_hooks': None},
    ],
)  # fmt: skip
def test_configs_with_less_or_other_things_are_compared(options, make_run):
    assert run_records([make_run('a'), make_run('b', options=options)])


@pytest.mark.parametrize('value', [['text'], [[1]]])
def test_configs_that_cannot_be_compared_are_named(value, make_run):
    runs = [make_run('a'), make_run('b', options={'param_scheduler': value})]
    with pytest.raises(UserError, match=r'configs of .*a/.*config.py, .*b/.* cannot be compared: '):
        run_records(runs)


def test_a_config_of_a_run_is_data(make_run, tmp_path):
    folder = make_run('a')
    config = folder / '20261121_150000' / 'vis_data' / 'config.py'
    trace = tmp_path / 'trace'
    config.write_text(f'{config.read_text()}\nimport pathlib\npathlib.Path({str(trace)!r}).touch()')
    with pytest.raises(UserError, match=r'config.py, line .*more than data.* say --trust'):
        run_records([folder])
    assert not trace.exists()
    with trusting(True):
        assert run_records([folder])
    assert trace.exists()


def test_folders_that_are_no_runs(make_run, tmp_path):
    folder = make_run('maskrcnn')
    with pytest.raises(UserError, match=r"no run '.*maskrcn'; did you mean .*maskrcnn"):
        read_run(tmp_path / 'maskrcn')
    with pytest.raises(UserError, match=r"no run '.*xxx'"):
        read_run(tmp_path / ('x' * 300))
    with pytest.raises(UserError, match=r'has no log of a training .*<time>/vis_data'):
        read_run(tmp_path)
    with pytest.raises(UserError, match=r"--runs names '.*maskrcnn' twice"):
        run_records([folder, tmp_path / 'other' / '..' / 'maskrcnn'])
    (folder / '20261121_150000' / 'vis_data' / 'config.py').write_text('model = (')
    with pytest.raises(UserError, match=r"config.py, line 1, is no config: '\(' was never"):
        read_run(folder)


def test_names_are_as_long_as_they_must_be(make_run):
    records = run_records([make_run('x/swin/a'), make_run('y/vit/a', processes=8)])
    assert {r.backbone for r in records} == {'swin/a', 'vit/a'}


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


def test_seeds_of_one_recipe_give_mean_and_spread(make_run):
    folders = [
        make_run('a', (0.1, 0.40), seed=1, options={'train_cfg.max_epochs': 2}),
        make_run('b', (0.1, 0.42), seed=2, options={'train_cfg.max_epochs': 2}),
        make_run('other', (0.1, 0.42), seed=2),
        make_run('c', (0.44,), seed=3, options={'train_cfg.max_epochs': 2}),
    ]
    assert list(group_by_recipe(map(read_run, folders))) == ['a + b + c', 'other']
    records = run_records(folders)
    (mean,) = [r for r in records if r.setting == 'mean of 3 seeds' and r.quantity == 'box AP']
    assert (mean.backbone, mean.value, mean.low, mean.high) == ('a + b + c', 42, 40, 44)
    assert mean.note == (
        'final: 40.00, 42.00, 44.00; standard deviation 2.00; low and high are the extremes; '
        'c stopped at epoch 1 of 2'
    )
    assert not any('one seed' in r.note for r in records if r.backbone in 'abc')
    (difference,) = [
        r for r in records if r.quantity == 'box AP' and r.setting.startswith('difference')
    ]
    assert (difference.backbone, difference.setting) == ('other', 'difference to a + b + c')
    assert difference.value == pytest.approx(0)
    assert difference.note.endswith('recipe, this / other: schedule 3 epochs / 2 epochs')


def test_the_same_seed_twice_is_no_second_seed(make_run):
    records = run_records([make_run('a'), make_run('b')])
    (mean,) = [r for r in records if r.setting == 'mean of 2 runs' and r.quantity == 'box AP']
    assert 'the logs do not show as many different seeds' in mean.note


def test_no_mean_where_a_seed_has_no_score(make_run):
    records = run_records([make_run('a'), make_run('b', [None] * 3, seed=2)])
    (mean,) = [r for r in records if r.setting == 'mean of 2 seeds' and r.quantity == 'box AP']
    assert math.isnan(mean.value)
    assert mean.note == 'no final box AP of b'


def test_difference_without_predictions_names_the_command(make_run):
    a, b = make_run('a'), make_run('b', (0.2, 0.25), processes=8)
    (a / 'last_checkpoint').write_text('/moved/since/a/epoch_3.pth')
    boxes, masks = (r for r in run_records([a, b]) if r.setting == 'difference to a')
    assert (boxes.backbone, boxes.value, boxes.quantity) == ('b', 5, 'box AP')
    assert masks.value == pytest.approx(2.5)
    assert math.isnan(boxes.low)
    config = b / '20261121_150000' / 'vis_data' / 'config.py'
    command = f'`python tools/test.py {config} CHECKPOINT --out {b}/predictions.npz`'
    assert command in boxes.note
    (a / 'predictions.npz').write_bytes(b'broken')
    boxes, _ = (r for r in run_records([a, b]) if r.setting == 'difference to a')
    (b / 'predictions.npz').write_bytes(b'broken')
    boxes, _ = (r for r in run_records([b, a]) if r.setting == 'difference to b')
    assert boxes.note.startswith('no bootstrap: ')
    assert 'a/predictions.npz cannot be read' in boxes.note


def test_an_old_pickle_is_read_only_where_it_is_trusted(make_run):
    rng = np.random.default_rng(0)
    folders = [make_run(n, [60.0], base=SEGMENTATION, processes=p) for n, p in (('a', 4), ('b', 8))]
    for folder in folders:
        (folder / 'predictions.pkl').write_bytes(pickle.dumps(label_maps(rng, 0.2)))
    note = run_records(folders)[-1].note
    assert note.startswith('no bootstrap: ')
    assert 'b/predictions.npz is not there' in note and 'say --trust' in note
    assert re.search(r'make it with `python tools/test.py .*b/predictions.npz`', note)
    with trusting(True):
        assert not math.isnan(run_records(folders, resamples=10)[-1].low)


def test_detection_and_segmentation_have_no_difference(make_run):
    records = run_records([make_run('a'), make_run('b', [40.0], base=SEGMENTATION)])
    assert not any(r.setting.startswith('difference') for r in records)


def label_maps(rng, flaw, count=20):
    """Predictions of two classes, as DumpSegResults keeps them, with a share of wrong pixels."""
    truths = np.random.default_rng(0).integers(0, 2, (count, 16, 16), np.uint8)
    images = []
    for i, truth in enumerate(truths):
        prediction = truth ^ (rng.random(truth.shape) < flaw)
        prediction, truth = (cv2.imencode('.png', m)[1].tobytes() for m in (prediction, truth))
        images.append(dict(img_path=f'{i}.png', prediction=prediction, truth=truth))
    return dict(classes=('a', 'b'), images=images)


def test_difference_with_a_bootstrap_interval(make_run):
    """Two seeds of a recipe against another, and one more that is hardly another."""
    rng = np.random.default_rng(0)
    scores = (('a', 80.0), ('b', 60.0), ('c', 60.0), ('d', 60.0))
    for seed, ((name, score), flaw) in enumerate(zip(scores, (0.1, 0.2, 0.2, 0.2), strict=True)):
        options = {'optim_wrapper.optimizer.lr': {'a': 0.1, 'd': 0.2}.get(name, 0.01)}
        folder = make_run(name, [score], base=SEGMENTATION, options=options, seed=seed)
        write_label_maps(folder / 'predictions.npz', **label_maps(rng, flaw))
    folder = folder.parent
    records = run_records([folder / name for name in 'abcd'], resamples=100)
    found = {(r.backbone, r.setting): r for r in records if r.setting.startswith('difference')}
    assert list(found) == [
        ('b + c', 'difference to a'), ('d', 'difference to a'), ('d', 'difference to b + c'),
    ]  # fmt: skip
    worse = found['b + c', 'difference to a']
    # IoU is (1 - flaw) / (1 + flaw): 0.82 and 0.67
    assert worse.value == pytest.approx(100 * (0.8 / 1.2 - 0.9 / 1.1), abs=2)
    assert worse.low < worse.value < worse.high < 0
    assert worse.note.startswith(
        'more than the noise of the test images: the interval leaves out 0; 95 % over 100 draws of'
    )
    assert (
        'of the 20 test images, the sign flips in 0.0%; training noise is not in it' in worse.note
    )
    assert 'the predictions of a score 8' in worse.note  # the log says 80.00
    assert worse.note.endswith('recipe, this / other: optimizer lr 0.01 / lr 0.1')
    same = found['d', 'difference to b + c']
    assert same.low < 0 < same.high
    assert same.note.startswith(
        'not more than the noise of the test images: the interval contains 0'
    )
    assert run_records([folder / name for name in 'abcd'], resamples=100)[-1] == records[-1]


def test_other_images_give_the_reason_in_place_of_an_interval(make_run):
    rng = np.random.default_rng(0)
    folders = [make_run(n, [60.0], base=SEGMENTATION, processes=p) for n, p in (('a', 4), ('b', 8))]
    for folder, count in zip(folders, (20, 19), strict=True):
        write_label_maps(folder / 'predictions.npz', **label_maps(rng, 0.2, count))
    difference = run_records(folders)[-1]
    assert (difference.value, difference.setting) == (0, 'difference to a')
    assert math.isnan(difference.low)
    assert difference.note.startswith('no bootstrap: the runs do not have predictions of the same')
    assert "has image '19.png'" in difference.note
