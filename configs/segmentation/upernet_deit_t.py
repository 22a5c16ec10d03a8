# DeiT in the place of Vim: what Vim's table 2 holds it against.
_base_ = ['./upernet_mambaout_t.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='mambaout_mm.ViT',
        arch='tiny',
        pyramid='taps',  # BEiT's, as in the config of Vim
        drop_path_rate=0.1,  # that of the config of Vim
        init_cfg=dict(type='Pretrained', checkpoint='deit://tiny'),
    ),
    decode_head=dict(in_channels=[192, 192, 192, 192]),
    auxiliary_head=dict(in_channels=192),
)
