_base_ = ['./maskrcnn_mambaout_t.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='mambaout_mm.Vim',
        arch='tiny',
        pyramid='last',  # ViTDet's, as in Vim's detection code
        drop_path_rate=0.0,  # its training on ImageNet
        init_cfg=dict(type='Pretrained', checkpoint='vim://tiny'),
    ),
    neck=dict(in_channels=[192, 192, 192, 192]),
)
