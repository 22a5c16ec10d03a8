_base_ = ['./upernet_plainmamba_l1_published.py']

model = dict(
    backbone=dict(
        arch='l3',
        drop_path_rate=0.3,  # its segmentation configs (ChenhongyiYang/PlainMamba)
        init_cfg=dict(checkpoint='plainmamba://l3'),
    ),
    decode_head=dict(in_channels=[448, 448, 448, 448]),
    auxiliary_head=dict(in_channels=448),
)
