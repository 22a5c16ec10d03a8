# A small MambaOut and UperNet from random weights on 120 street scenes of eleven classes, laid out
# as in docs/custom_data.md under data/camvid_mini: for a study on a CPU.
_base_ = ['../../configs/segmentation/upernet_mambaout_femto.py']

crop_size = (240, 320)
iterations = 1600
warmup = 40
classes = (
    'sky',
    'building',
    'pole',
    'road',
    'pavement',
    'tree',
    'sign',
    'fence',
    'car',
    'pedestrian',
    'bicyclist',
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=(480, 360), ratio_range=(0.7, 1.4), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
data = dict(
    type='BaseSegDataset',
    data_root='data/camvid_mini',
    metainfo=dict(classes=classes),
    img_suffix='.jpg',
    seg_map_suffix='.png',
    reduce_zero_label=False,
)
model = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=dict(
        arch=dict(_delete_=True, depths=(1, 1, 3, 1), dims=(24, 48, 96, 144)),
        drop_path_rate=0.0,
        init_cfg=None,
    ),
    decode_head=dict(in_channels=[24, 48, 96, 144], channels=32, num_classes=11),
    auxiliary_head=dict(in_channels=96, channels=32, num_classes=11),
)
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(pipeline=train_pipeline, **data),
)
val_dataloader = dict(
    num_workers=0, persistent_workers=False, dataset=dict(pipeline=test_pipeline, **data)
)
test_dataloader = val_dataloader
optim_wrapper = dict(optimizer=dict(lr=4e-3), clip_grad=dict(max_norm=1.0))
train_cfg = dict(max_iters=iterations, val_interval=400)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=warmup),
    dict(type='PolyLR', eta_min=0.0, power=1.0, begin=warmup, end=iterations, by_epoch=False),
]
default_hooks = dict(
    logger=dict(interval=50), checkpoint=dict(interval=800, max_keep_ckpts=1, save_best=None)
)
