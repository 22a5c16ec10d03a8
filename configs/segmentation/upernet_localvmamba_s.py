_base_ = ['./upernet_mambaout_t.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='mambaout_mm.LocalVMamba',
        arch='small',
        drop_path_rate=0.2,  # LocalMamba's segmentation configs (hunto/LocalMamba)
        init_cfg=dict(type='Pretrained', checkpoint='localvmamba://small'),
    ),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
)
