_base_ = ['./maskrcnn_mambaout_t.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='mambaout_mm.TimmPyramid',
        model_name='convnext_small',
        drop_path_rate=0.6,  # mmdet's Cascade Mask R-CNN (3x); it has no Mask R-CNN of it
        init_cfg=dict(type='Pretrained', checkpoint='timm://convnext_small.fb_in1k'),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
