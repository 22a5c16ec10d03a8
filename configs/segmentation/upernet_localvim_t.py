_base_ = ['./upernet_mambaout_t.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='mambaout_mm.LocalVim',
        arch='tiny',
        scan='published',  # what its weights were trained with
        pyramid='taps',  # BEiT's; its authors give UperNet four maps at stride 16
        drop_path_rate=0.1,  # its segmentation configs (hunto/LocalMamba)
        init_cfg=dict(type='Pretrained', checkpoint='localvim://tiny'),
    ),
    decode_head=dict(in_channels=[192, 192, 192, 192]),
    auxiliary_head=dict(in_channels=192),
)
