# `camvid.py` with about twice the iterations.
_base_ = ['camvid.py']

iterations = 3000
warmup = 75
train_cfg = dict(max_iters=iterations, val_interval=500)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=warmup),
    dict(type='PolyLR', eta_min=0.0, power=1.0, begin=warmup, end=iterations, by_epoch=False),
]
