# VMamba's first release.
_base_ = ['./upernet_mambaout_t.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='mambaout_mm.VMamba',
        arch='small_v0',
        drop_path_rate=0.3,  # inherited from Swin's in VMamba's segmentation configs (vssm)
        init_cfg=dict(type='Pretrained', checkpoint='vmamba://small_v0'),
    ),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
