_base_ = ['./upernet_mambaout_t.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='mambaout_mm.LocalVMamba',
        arch='tiny',
        drop_path_rate=0.1,  # LocalMamba's segmentation configs (hunto/LocalMamba)
        # Never released: training stops here and says so, until a checkpoint is given.
        init_cfg=dict(type='Pretrained', checkpoint='localvmamba://tiny'),
    ),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
)
