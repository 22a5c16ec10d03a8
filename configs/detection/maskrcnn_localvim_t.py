_base_ = ['./maskrcnn_mambaout_t.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='mambaout_mm.LocalVim',
        arch='tiny',
        scan='published',  # what its weights were trained with
        pyramid='last',  # ViTDet's, as in its detection code
        features='mixer',  # what its dense code taps
        drop_path_rate=0.1,  # its detection configs (hunto/LocalMamba)
        init_cfg=dict(type='Pretrained', checkpoint='localvim://tiny'),
    ),
    neck=dict(in_channels=[192, 192, 192, 192]),
)
