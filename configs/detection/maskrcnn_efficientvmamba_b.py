_base_ = ['./maskrcnn_mambaout_t.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='mambaout_mm.EfficientVMamba',
        arch='base',
        drop_path_rate=0.2,  # its detection configs (TerryPei/EfficientVMamba)
        init_cfg=dict(type='Pretrained', checkpoint='efficientvmamba://base'),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
