# VMamba's first release.
_base_ = ['./maskrcnn_mambaout_t.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='mambaout_mm.VMamba',
        arch='small_v0',
        drop_path_rate=0.2,  # inherited from Swin's in VMamba's detection configs (vssm)
        init_cfg=dict(type='Pretrained', checkpoint='vmamba://small_v0'),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
