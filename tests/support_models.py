"""Whole models with small heads, for tests that run training iterations to see that they run."""

from support import ROOT

SMALL_HEADS = {
    'maskrcnn': """
_base_ = {base!r}
proposals = dict(nms_pre=64, max_per_img=16)
model = dict(
    neck=dict(out_channels=16),
    rpn_head=dict(in_channels=16, feat_channels=16),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=16),
        bbox_head=dict(in_channels=16, fc_out_channels=32),
        mask_roi_extractor=dict(out_channels=16),
        mask_head=dict(num_convs=1, in_channels=16, conv_out_channels=16),
    ),
    train_cfg=dict(rpn_proposal=proposals, rcnn=dict(sampler=dict(num=16))),
    test_cfg=dict(rpn=proposals),
)
""",
    'upernet': """
_base_ = {base!r}
model = dict(decode_head=dict(channels=16), auxiliary_head=dict(channels=16))
""",
}


def small_config(model, folder):
    """A config of 'maskrcnn' or 'upernet' over MambaOut-Femto with few channels and proposals."""
    task = 'detection' if model == 'maskrcnn' else 'segmentation'
    base = str(ROOT / 'configs' / task / f'{model}_mambaout_femto.py')
    path = folder / f'{model}_small.py'
    path.write_text(SMALL_HEADS[model].format(base=base))
    return path
