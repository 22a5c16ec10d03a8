# Cascade Mask R-CNN with ViTDet's heads (arXiv 2203.16527, section 4), as in Vim's table 3: box
# heads of four convolutions and one linear layer, two convolutions in the RPN, LayerNorm in all.
_base_ = ['./cascade_mask_rcnn_fpn.py']

norm_cfg = dict(type='mambaout_mm.LayerNorm2d', requires_grad=True)
model = dict(
    rpn_head=dict(num_convs=2),
    roi_head=dict(
        bbox_head=[
            dict(
                type='Shared4Conv1FCBBoxHead',
                in_channels=256,
                conv_out_channels=256,
                fc_out_channels=1024,
                roi_feat_size=7,
                num_classes=80,
                norm_cfg=norm_cfg,
                bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_stds=stds),
                reg_class_agnostic=True,
                loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
                loss_bbox=dict(type='SmoothL1Loss', beta=1.0, loss_weight=1.0),
            )
            for stds in (
                [0.1, 0.1, 0.2, 0.2],
                [0.05, 0.05, 0.1, 0.1],
                [0.033, 0.033, 0.067, 0.067],
            )
        ],
        mask_head=dict(norm_cfg=norm_cfg),
    ),
)
