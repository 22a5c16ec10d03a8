# As VMamba's authors trained it, in FP32 (without --amp).
_base_ = ['./upernet_vmamba_t_s2l5.py']

optim_wrapper = dict(optimizer=dict(lr=6e-5))
