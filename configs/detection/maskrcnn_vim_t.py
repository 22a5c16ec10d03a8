_base_ = ['./maskrcnn_mambaout_t.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='mambaout_mm.Vim',
        arch='tiny',
        pyramid='last',  # ViTDet's, as in Vim's detection code
        drop_path_rate=0.1,  # its detection models (hustvl/Vim, common/models/mask_rcnn_vimdet.py)
        init_cfg=dict(type='Pretrained', checkpoint='vim://tiny'),
    ),
    neck=dict(in_channels=[192, 192, 192, 192]),
)
