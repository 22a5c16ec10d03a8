_base_ = ['./maskrcnn_mambaout_t_3x.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='mambaout_mm.LocalVMamba',
        arch='tiny',
        drop_path_rate=0.2,  # LocalMamba's detection configs (hunto/LocalMamba)
        # Never released: training stops here and says so, until a checkpoint is given.
        init_cfg=dict(type='Pretrained', checkpoint='localvmamba://tiny'),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
