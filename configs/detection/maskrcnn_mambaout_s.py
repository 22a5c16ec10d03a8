_base_ = ['./maskrcnn_mambaout_t.py']

model = dict(
    backbone=dict(
        arch='small',
        drop_path_rate=0.2,  # Swin: mmdet's Swin-S; the paper does not say
        init_cfg=dict(checkpoint='mambaout://small'),
    ),
)
