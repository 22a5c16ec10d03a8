# MambaOut-T's body with an SSM after the convolution of every block of stages 3 and 4.
# It has the multiply-accumulates of MambaOut-T. Nobody has weights.
_base_ = ['./upernet_mambaout_t_scratch.py']

model = dict(
    backbone=dict(
        arch=dict(
            _delete_=True,
            depths=(3, 3, 9, 3),
            dims=(96, 192, 384, 576),
            expansion_ratio=2.5346,
        ),
        mixer=('conv', 'conv', 'ssm', 'ssm'),
    ),
)
