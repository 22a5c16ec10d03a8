# As PlainMamba's authors trained it, in FP32 (without --amp): UperNet on four maps at stride 16,
# the auxiliary head on the last of them, and sides of test images rounded to multiples of 32.
_base_ = ['./upernet_plainmamba_l1.py']

model = dict(backbone=dict(pyramid=None), auxiliary_head=dict(in_index=3))
optim_wrapper = dict(optimizer=dict(lr=6e-5))
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(2048, 512), keep_ratio=True),
    dict(type='ResizeToMultiple', size_divisor=32),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
