# DeepLabV3+ over the UperNet base: mmseg's stock head. Its rates 12, 24, 36 belong to stride 8;
# they are divided by 4 for this backbone's stride 32.
_base_ = ['./upernet.py']

model = dict(
    # The head takes strides 4 and 32, the auxiliary head 16; a norm on stride 8 would be unused.
    backbone=dict(out_indices=(0, 2, 3)),
    auxiliary_head=dict(in_index=1),
    decode_head=dict(
        _delete_=True,
        type='DepthwiseSeparableASPPHead',
        in_channels=576,
        in_index=2,
        channels=512,
        dilations=(1, 3, 6, 9),
        c1_in_channels=96,
        c1_channels=48,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
)
