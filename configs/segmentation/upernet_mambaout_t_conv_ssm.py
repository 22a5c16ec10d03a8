# MambaOut-T with an SSM beside the convolution of every block. It starts from MambaOut's
# weights, with the SSM without effect: against upernet_mambaout_t.py, the SSM is all that differs.
_base_ = ['./upernet_mambaout_t.py']

model = dict(backbone=dict(mixer='conv+ssm'))
