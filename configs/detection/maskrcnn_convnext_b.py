_base_ = ['./maskrcnn_mambaout_t.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='mambaout_mm.TimmPyramid',
        model_name='convnext_base',
        drop_path_rate=0.7,  # its authors' Cascade Mask R-CNN (3x); no Mask R-CNN of it
        init_cfg=dict(type='Pretrained', checkpoint='timm://convnext_base.fb_in1k'),
    ),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
