_base_ = ['./upernet_mambaout_t.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='mambaout_mm.VMamba',
        arch='tiny_s1l8',
        drop_path_rate=0.2,  # VMamba's segmentation configs (MzeroMiko/VMamba, vssm1)
        # Its segmentors start from `model`; `model_ema` has the published top-1.
        init_cfg=dict(type='Pretrained', checkpoint='vmamba://tiny_s1l8', key='model'),
    ),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
