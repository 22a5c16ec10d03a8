"""What all operators of the stand-in for mmcv._ext leave alone: autograd and autocast."""

import mmcv.ops as ops
import torch
from mmcv import _ext
from support_mmcv import ROIS, needs_stand_in, on_devices, rand

pytestmark = needs_stand_in


def test_operators_leave_autograd_to_the_wrappers():
    x, target, none = torch.zeros(2, 3, requires_grad=True), torch.tensor([0, 1]), torch.empty(0)
    output = torch.zeros(2, 3)
    _ext.sigmoid_focal_loss_forward(x, target, none, output, gamma=2.0, alpha=0.25)
    assert output.all() and not output.requires_grad


@on_devices
def test_autocast_does_not_reach_into_the_operators(device):
    torch.manual_seed(0)
    x = rand(2, 4, 8, 8, seed=81).float().to(device).requires_grad_()
    conv = ops.ModulatedDeformConv2d(4, 4, 3, padding=1).to(device)
    plain = ops.DeformConv2d(4, 4, 3, padding=1).to(device)
    offset, mask = torch.full((2, 18, 8, 8), 0.25), torch.full((2, 9, 8, 8), 0.5)
    offset, mask = offset.to(device), mask.to(device)
    target = torch.arange(128, device=device) % 5
    rois = ROIS.to(device)

    def outputs(x):
        return [
            ops.roi_align(x, rois, 2),
            conv(x, offset, mask),
            plain(x, offset),
            ops.sigmoid_focal_loss(x.reshape(-1, 4), target),
        ]

    def run_all():
        results = outputs(x)
        wanted = [x, *conv.parameters(), *plain.parameters()]
        return [*results, *torch.autograd.grad(sum(r.square().sum() for r in results), wanted)]

    # Everything is float32: autocast has nothing to cast, forward and backward.
    expected = run_all()
    with torch.autocast(device, torch.bfloat16):
        got = run_all()
        keep = ops.nms(rois[:, 1:], rois[:, 1] + 50, 0.5)[1]
    assert keep.tolist() == ops.nms(rois[:, 1:], rois[:, 1] + 50, 0.5)[1].tolist()
    for ours, reference in zip(got, expected, strict=True):
        assert ours.dtype == torch.float32
        assert torch.allclose(ours, reference, rtol=1e-5, atol=1e-5)
