_base_ = ['./maskrcnn_mambaout_t.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='mambaout_mm.PlainMamba',
        arch='l1',
        scan='published',  # what its weights were trained with
        pyramid='last',  # ViTDet's; its authors use a ViT-Adapter
        drop_path_rate=0.1,  # its detection configs (ChenhongyiYang/PlainMamba)
        init_cfg=dict(type='Pretrained', checkpoint='plainmamba://l1'),
    ),
    neck=dict(in_channels=[192, 192, 192, 192]),
)
