_base_ = ['./upernet_mambaout_t.py']

model = dict(
    backbone=dict(
        arch='femto',
        drop_path_rate=0.3,  # author's for Tiny (issue #251); no source for this size
        init_cfg=dict(checkpoint='mambaout://femto'),
    ),
    decode_head=dict(in_channels=[48, 96, 192, 288]),
    auxiliary_head=dict(in_channels=192),
)
