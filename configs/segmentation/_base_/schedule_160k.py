# 160,000 iterations of AdamW.
train_cfg = dict(type='IterBasedTrainLoop', max_iters=160000, val_interval=16000)  # paper, 4.4
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='OptimWrapper',  # the paper trains in FP16: pass --amp
    optimizer=dict(
        type='AdamW',
        lr=1e-4,  # paper, section 4.4; author: for all sizes (issue #251)
        betas=(0.9, 0.999),  # Swin: mmseg's Swin-T UperNet
        weight_decay=0.01,  # Swin
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
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),  # Swin
    dict(type='PolyLR', eta_min=0.0, power=1.0, begin=1500, end=160000, by_epoch=False),  # Swin
]
auto_scale_lr = dict(enable=False, base_batch_size=16)  # paper, section 4.4
