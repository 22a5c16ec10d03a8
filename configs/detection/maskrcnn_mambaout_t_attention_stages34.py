# MambaOut-T's body with attention in place of the convolution in stages 3 and 4.
# At 512x512 it has the multiply-accumulates of MambaOut-T, at larger images more. Nobody has
# weights.
_base_ = ['./maskrcnn_mambaout_t_scratch.py']

model = dict(
    backbone=dict(
        arch=dict(
            _delete_=True,
            depths=(3, 3, 9, 3),
            dims=(96, 192, 384, 576),
            expansion_ratio=1.0633,
        ),
        mixer=('conv', 'conv', 'attention', 'attention'),
    ),
)
