_base_ = ['./maskrcnn_mambaout_t.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='mambaout_mm.VMamba',
        arch='base_s2l15',
        drop_path_rate=0.6,  # VMamba's detection configs (MzeroMiko/VMamba, vssm1)
        # Its detectors start from `model`; `model_ema` has the published top-1.
        init_cfg=dict(type='Pretrained', checkpoint='vmamba://base_s2l15', key='model'),
    ),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
