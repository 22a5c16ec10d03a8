_base_ = ['./upernet_mambaout_t.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='mambaout_mm.TimmPyramid',
        model_name='convnext_base',
        drop_path_rate=0.4,  # mmseg's UperNet of it
        init_cfg=dict(type='Pretrained', checkpoint='convnext://base'),  # not the averaged weights
    ),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
