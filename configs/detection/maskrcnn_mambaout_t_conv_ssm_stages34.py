# MambaOut-T with an SSM beside the convolution of every block of stages 3 and 4. It starts from
# MambaOut's weights, with the SSM without effect: against maskrcnn_mambaout_t.py,
# the SSM is all that differs.
_base_ = ['./maskrcnn_mambaout_t.py']

model = dict(backbone=dict(mixer=('conv', 'conv', 'conv+ssm', 'conv+ssm')))
