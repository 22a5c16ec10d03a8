_base_ = ['./maskrcnn_mambaout_t_3x.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='mambaout_mm.TimmPyramid',
        model_name='convnext_tiny',
        drop_path_rate=0.4,  # its authors' Mask R-CNN, 36 epochs at many scales
        init_cfg=dict(type='Pretrained', checkpoint='convnext://tiny'),  # not the averaged weights
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
