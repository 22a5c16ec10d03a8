# Vim-Ti against cascade_maskrcnn_deit_t.py, as in Vim's table 3, under the recipe of this project:
# 12 epochs; Vim's is ViTDet's, 100 epochs of 64 images of 1024x1024 with large-scale jitter.
_base_ = [
    './_base_/cascade_mask_rcnn_vitdet.py',
    './_base_/coco_instance.py',
    './_base_/schedule_1x.py',
    './_base_/runtime.py',
]

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
