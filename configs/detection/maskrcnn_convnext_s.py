_base_ = ['./maskrcnn_mambaout_t.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='mambaout_mm.TimmPyramid',
        model_name='convnext_small',
        # For 12 epochs: that of InternImage-S's Mask R-CNN 1x (OpenGVLab/InternImage). Its authors
        # have .6 for 36 epochs at many scales, and nothing for 12: docs/comparators.md.
        drop_path_rate=0.3,
        init_cfg=dict(type='Pretrained', checkpoint='convnext://small'),  # not the averaged weights
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
