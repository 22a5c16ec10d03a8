# DeiT in the place of Vim: what Vim's table 2 holds it against.
_base_ = ['./upernet_mambaout_t.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='mambaout_mm.ViT',
        arch='small',
        pyramid='taps',  # BEiT's, as in the config of Vim
        drop_path_rate=0.1,  # that of the config of Vim
        init_cfg=dict(type='Pretrained', checkpoint='deit://small'),
    ),
    decode_head=dict(in_channels=[384, 384, 384, 384]),
)
