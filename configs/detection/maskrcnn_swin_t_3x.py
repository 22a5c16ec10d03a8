_base_ = ['./maskrcnn_mambaout_t_3x.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='mambaout_mm.TimmPyramid',
        model_name='swin_tiny_patch4_window7_224',
        drop_path_rate=0.2,  # mmdet's Mask R-CNN 1x
        init_cfg=dict(type='Pretrained', checkpoint='timm://swin_tiny_patch4_window7_224.ms_in1k'),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
