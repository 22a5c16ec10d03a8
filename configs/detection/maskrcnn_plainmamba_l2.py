_base_ = ['./maskrcnn_mambaout_t.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='mambaout_mm.PlainMamba',
        arch='l2',
        scan='published',  # what its weights were trained with
        pyramid='last',  # ViTDet's; its authors use a ViT-Adapter
        drop_path_rate=0.2,  # its detection configs (ChenhongyiYang/PlainMamba)
        init_cfg=dict(type='Pretrained', checkpoint='plainmamba://l2'),
    ),
    neck=dict(in_channels=[384, 384, 384, 384]),
)
