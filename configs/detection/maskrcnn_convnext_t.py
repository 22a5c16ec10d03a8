_base_ = ['./maskrcnn_mambaout_t.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='mambaout_mm.TimmPyramid',
        model_name='convnext_tiny',
        drop_path_rate=0.4,  # mmdet's Mask R-CNN (3x)
        init_cfg=dict(type='Pretrained', checkpoint='timm://convnext_tiny.fb_in1k'),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
