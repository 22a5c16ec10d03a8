# MambaOut-T + UperNet with an auxiliary FCN head: mmseg's stock heads as its Swin configs use them,
# which gives the paper's parameters and MACs (table 3) to the rounding.
norm_cfg = dict(type='SyncBN', requires_grad=True)
data_preprocessor = dict(
    type='SegDataPreProcessor',
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    bgr_to_rgb=True,
    pad_val=0,
    seg_pad_val=255,
    size=(512, 512),  # the training crop of ade20k.py
)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=data_preprocessor,
    backbone=dict(
        type='mambaout_mm.MambaOut',
        arch='tiny',
        drop_path_rate=0.3,  # author: yuweihao/MambaOut issue #251
        output_norm=True,  # author: issue #251
        init_cfg=dict(type='Pretrained', checkpoint='mambaout://tiny'),
    ),
    decode_head=dict(
        type='UPerHead',
        in_channels=[96, 192, 384, 576],
        in_index=[0, 1, 2, 3],
        pool_scales=(1, 2, 3, 6),
        channels=512,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
    auxiliary_head=dict(
        type='FCNHead',
        in_channels=384,
        in_index=2,
        channels=256,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=0.4),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
