_base_ = ['./maskrcnn_mambaout_t_3x.py']

model = dict(
    backbone=dict(
        arch='kobe',
        drop_path_rate=0.2,  # Swin: mmdet's Swin-T; no source for this size
        init_cfg=dict(checkpoint='mambaout://kobe'),
    ),
    neck=dict(in_channels=[48, 96, 192, 288]),
)
