_base_ = ['./upernet_mambaout_t.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='mambaout_mm.TimmPyramid',
        model_name='convnext_small',
        drop_path_rate=0.3,  # mmseg's UperNet of it
        init_cfg=dict(type='Pretrained', checkpoint='convnext://small'),  # not the averaged weights
    ),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
)
