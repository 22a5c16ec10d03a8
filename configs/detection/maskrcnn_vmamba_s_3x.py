_base_ = ['./maskrcnn_mambaout_t_3x.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='mambaout_mm.VMamba',
        arch='small_s2l15',
        drop_path_rate=0.3,  # VMamba's detection configs (MzeroMiko/VMamba, vssm1)
        # Its detectors start from `model`; `model_ema` has the published top-1.
        init_cfg=dict(type='Pretrained', checkpoint='vmamba://small_s2l15', key='model'),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
