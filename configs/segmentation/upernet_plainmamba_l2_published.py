_base_ = ['./upernet_plainmamba_l1_published.py']

model = dict(
    backbone=dict(
        arch='l2',
        drop_path_rate=0.2,  # its segmentation configs (ChenhongyiYang/PlainMamba)
        init_cfg=dict(checkpoint='plainmamba://l2'),
    ),
    decode_head=dict(in_channels=[384, 384, 384, 384]),
    auxiliary_head=dict(in_channels=384),
)
