_base_ = ['./upernet_mambaout_t.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='mambaout_mm.Vim',
        arch='small',
        pyramid='taps',  # BEiT's, as in Vim's segmentation code
        drop_path_rate=0.1,  # its segmentation models: the default of vim/models_mamba.py
        init_cfg=dict(type='Pretrained', checkpoint='vim://small'),
    ),
    decode_head=dict(in_channels=[384, 384, 384, 384]),
)
