# DeiT-Ti in the place of Vim-Ti: what Vim's table 3 holds it against.
_base_ = ['./cascade_maskrcnn_vim_t.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='mambaout_mm.ViT',
        arch='tiny',
        pyramid='last',
        drop_path_rate=0.1,  # that of the config of Vim
        init_cfg=dict(type='Pretrained', checkpoint='deit://tiny'),
    ),
)
