_base_ = ['./upernet_mambaout_t.py']

model = dict(
    backbone=dict(
        arch='small',
        drop_path_rate=0.3,  # author: 0.3 or 0.4 (issue #251)
        init_cfg=dict(checkpoint='mambaout://small'),
    ),
)
