# 12 epochs of AdamW.
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=12, val_interval=1)  # paper, section 4.3
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='OptimWrapper',  # the paper trains in FP16: pass --amp
    optimizer=dict(
        type='AdamW',
        lr=1e-4,  # paper, section 4.3
        betas=(0.9, 0.999),  # Swin: mmdet's Swin-T 1x
        weight_decay=0.05,  # Swin
        fused=True,  # the same step in one kernel: benchmarks/NOTES.md
    ),
    paramwise_cfg=dict(  # Swin; position biases are Swin's, the last two plain Mambas'
        custom_keys={
            'norm': dict(decay_mult=0.0),
            'relative_position_bias_table': dict(decay_mult=0.0),
            'pos_embed': dict(decay_mult=0.0),
            'cls_token': dict(decay_mult=0.0),
        }
    ),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=1000),  # Swin
    dict(
        type='MultiStepLR',
        begin=0,
        end=12,
        by_epoch=True,
        milestones=[8, 11],  # Swin
        gamma=0.1,
    ),
]
auto_scale_lr = dict(enable=False, base_batch_size=16)  # paper, section 4.3
