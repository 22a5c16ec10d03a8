# A small MambaOut and Mask R-CNN from random weights on the embedded data set at 256x256 pixels,
# for a study on a CPU. `python -c "from pathlib import Path; from mambaout_mm.demo.shapes import
# write_shapes; write_shapes(Path('data'), 256)"` draws it to data/shapes1_256.
_base_ = ['../../configs/detection/maskrcnn_mambaout_femto.py']

iterations = 400
warmup = 40
classes = ('circle', 'square', 'triangle')
load = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=(256, 256), keep_ratio=True),
]
train_pipeline = [*load, dict(type='RandomFlip', prob=0.5), dict(type='PackDetInputs')]
test_pipeline = [
    *load,
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
data = dict(data_root='data/shapes1_256/', metainfo=dict(classes=classes))
proposals = dict(nms_pre=400, max_per_img=100)
model = dict(
    backbone=dict(
        arch=dict(_delete_=True, depths=(1, 1, 3, 1), dims=(24, 48, 96, 144)),
        drop_path_rate=0.0,
        init_cfg=None,
    ),
    neck=dict(in_channels=[24, 48, 96, 144], out_channels=32),
    rpn_head=dict(in_channels=32, feat_channels=32),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=32),
        bbox_head=dict(in_channels=32, fc_out_channels=128, num_classes=3),
        mask_roi_extractor=dict(out_channels=32),
        mask_head=dict(num_convs=2, in_channels=32, conv_out_channels=32, num_classes=3),
    ),
    train_cfg=dict(rpn_proposal=proposals, rcnn=dict(sampler=dict(num=64))),
    test_cfg=dict(rpn=proposals),
)
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(_delete_=True, type='InfiniteSampler', shuffle=True),
    batch_sampler=None,
    dataset=dict(
        ann_file='annotations/instances_train.json',
        data_prefix=dict(img='images/train/'),
        pipeline=train_pipeline,
        **data,
    ),
)
val_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        ann_file='annotations/instances_val.json',
        data_prefix=dict(img='images/val/'),
        pipeline=test_pipeline,
        **data,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file='data/shapes1_256/annotations/instances_val.json')
test_evaluator = val_evaluator
optim_wrapper = dict(optimizer=dict(lr=1e-3), clip_grad=dict(max_norm=1.0))
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=iterations, val_interval=100)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=warmup),
    dict(
        type='CosineAnnealingLR',
        T_max=iterations - warmup,
        by_epoch=False,
        begin=warmup,
        end=iterations,
    ),
]
log_processor = dict(by_epoch=False)
default_hooks = dict(
    logger=dict(interval=50),
    checkpoint=dict(by_epoch=False, interval=200, max_keep_ckpts=1, save_best=None),
)
