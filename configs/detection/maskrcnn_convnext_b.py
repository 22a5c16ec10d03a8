_base_ = ['./maskrcnn_mambaout_t.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='mambaout_mm.TimmPyramid',
        model_name='convnext_base',
        # For 12 epochs: that of InternImage-B's Mask R-CNN 1x (OpenGVLab/InternImage). Its authors
        # have .7 for 36 epochs at many scales, and nothing for 12: docs/comparators.md.
        drop_path_rate=0.4,
        init_cfg=dict(type='Pretrained', checkpoint='convnext://base'),  # not the averaged weights
    ),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
