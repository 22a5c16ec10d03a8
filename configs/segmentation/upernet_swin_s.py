_base_ = ['./upernet_mambaout_t.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='mambaout_mm.TimmPyramid',
        model_name='swin_small_patch4_window7_224',
        drop_path_rate=0.3,  # mmseg's UperNet of it
        init_cfg=dict(type='Pretrained', checkpoint='timm://swin_small_patch4_window7_224.ms_in1k'),
    ),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
)
