_base_ = ['./upernet_mambaout_t.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='mambaout_mm.Vim',
        arch='tiny',
        pyramid='taps',  # BEiT's, as in Vim's segmentation code
        features='mixer',  # its authors' for Vim-Ti; 'residual' for Vim-S
        drop_path_rate=0.1,  # its segmentation models: the default of vim/models_mamba.py
        init_cfg=dict(type='Pretrained', checkpoint='vim://tiny'),
    ),
    decode_head=dict(in_channels=[192, 192, 192, 192]),
    auxiliary_head=dict(in_channels=192),
)
