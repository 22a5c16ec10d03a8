"""Work dirs of trainings, as MMEngine writes them."""

import copy
import json

from mmengine.config import Config

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


def write_run(parent, name, scores=(0.1, 0.3, 0.2), time='20261121_150000', **options):
    """A run of one start: a folder's name, its scores, and how it is different."""
    return write_start(parent / name, time, scores, **options)
