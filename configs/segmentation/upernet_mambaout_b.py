_base_ = ['./upernet_mambaout_t.py']

model = dict(
    backbone=dict(
        arch='base',
        drop_path_rate=0.6,  # author: issue #251
        init_cfg=dict(checkpoint='mambaout://base'),
    ),
    decode_head=dict(in_channels=[128, 256, 512, 768]),
    auxiliary_head=dict(in_channels=512),
)
