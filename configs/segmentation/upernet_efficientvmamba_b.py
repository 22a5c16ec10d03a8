_base_ = ['./upernet_mambaout_t.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='mambaout_mm.EfficientVMamba',
        arch='base',
        drop_path_rate=0.2,  # as in detection; its segmentation code is not public
        init_cfg=dict(type='Pretrained', checkpoint='efficientvmamba://base'),
    ),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
)
