_base_ = ['./maskrcnn_mambaout_t_3x.py']

model = dict(
    backbone=dict(
        arch='base',
        drop_path_rate=0.3,  # Swin: its authors' Swin-B detector; the paper does not say
        init_cfg=dict(checkpoint='mambaout://base'),
    ),
    neck=dict(in_channels=[128, 256, 512, 768]),
)
