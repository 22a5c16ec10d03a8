_base_ = ['./upernet_mambaout_t.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='mambaout_mm.PlainMamba',
        arch='l1',
        scan='published',  # what its weights were trained with
        pyramid='taps',  # BEiT's; its authors give UperNet four maps at stride 16
        drop_path_rate=0.1,  # its segmentation configs (ChenhongyiYang/PlainMamba)
        init_cfg=dict(type='Pretrained', checkpoint='plainmamba://l1'),
    ),
    decode_head=dict(in_channels=[192, 192, 192, 192]),
    auxiliary_head=dict(in_channels=192),
)
