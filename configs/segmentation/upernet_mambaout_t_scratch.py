# MambaOut-T from random weights: what its twins with other token mixers are held against.
_base_ = ['./upernet_mambaout_t.py']

model = dict(backbone=dict(init_cfg=None))
