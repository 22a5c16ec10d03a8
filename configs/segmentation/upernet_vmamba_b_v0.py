# VMamba's first release.
_base_ = ['./upernet_mambaout_t.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='mambaout_mm.VMamba',
        arch='base_v0',
        drop_path_rate=0.3,  # inherited from Swin's in VMamba's segmentation configs (vssm)
        init_cfg=dict(type='Pretrained', checkpoint='vmamba://base_v0'),
    ),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
