"""The head sees one pixel: what a probe finds, its backbone has found."""

import pytest
import torch
from torch import nn

from mambaout_mm import MambaOut, Vim
from mambaout_mm.probe.network import MarkedIoU, PixelHead, Probe

SMALL = dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32))


@pytest.mark.parametrize('size', [(64, 64), (75, 101)])
@pytest.mark.parametrize('out_indices', [(0, 1, 2, 3), (1, 3)])
def test_every_pixel_gets_a_class(size, out_indices):
    probe = Probe(MambaOut(SMALL, out_indices=out_indices), (1, 1, 1))
    assert probe(torch.rand(2, 3, *size)).shape == (2, 3, *size)


def test_networks_of_one_resolution_can_be_probed():
    probe = Probe(Vim(dict(depths=(1, 1, 1, 1), dim=16)), (1, 1, 1))
    assert probe(torch.rand(1, 3, 64, 96)).shape == (1, 3, 64, 96)


def test_the_head_sees_one_place_of_each_map():
    head = PixelHead((2, 2), (4, 16))
    maps = [torch.randn(1, 2, 16, 16), torch.randn(1, 2, 4, 4)]
    before = head(maps, (64, 64))
    for i, stride in enumerate((4, 16)):
        changed = [x.clone() for x in maps]
        changed[i][:, :, 1, 2] += 1
        moved = (head(changed, (64, 64)) - before).abs().amax((0, 1)) > 1e-6
        rows, columns = torch.nonzero(moved, as_tuple=True)
        assert (rows // stride).unique().tolist() == [1]
        assert (columns // stride).unique().tolist() == [2]


def reach(mixer):
    """How far from the middle an image can change what its middle is taken for."""
    torch.manual_seed(0)
    probe = Probe(MambaOut(SMALL, mixer=mixer), (1, 1, 1)).double()
    for module in probe.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):  # else far gradients vanish in rounding
            nn.init.normal_(module.weight, std=0.3)
    image = torch.rand(1, 3, 256, 256, dtype=torch.float64, requires_grad=True)
    probe(image)[0, :, 128, 128].square().sum().backward()
    rows = torch.nonzero(image.grad.abs().amax((0, 1, 3)))[:, 0]
    return max(128 - rows.min().item(), rows.max().item() - 128)


def test_without_token_mixing_nothing_beyond_the_strides_is_seen():
    """Stem and downsampling see 63 pixels, from wherever their last place begins."""
    assert reach('identity') <= 31 + 31
    assert reach('ssm') >= 127


def test_the_score_is_of_the_marked_curve_for_each_distance():
    metric = MarkedIoU((0.5, 1.0))
    metric.process(None, [(0, 10, 20), (1, 0, 5), (0, 10, 20)])
    assert metric.compute_metrics(metric.results) == {'iou_0.5': 0.5, 'iou_1': 0.0}


def test_counts_leave_out_the_mark():
    probe = Probe(MambaOut(SMALL), (1, 1, 1)).eval()
    labels = torch.full((2, 64, 64), 255)
    labels[0, 0, :10] = 2
    with torch.no_grad():
        nn.init.zeros_(probe.head.classify[-2].weight)
        bias = probe.head.classify[-2].bias.view(3, 16)
        bias.zero_()[2] = 1  # everything is the marked curve
        counts = probe(torch.rand(2, 3, 64, 64), labels, torch.tensor([0, 1]), mode='predict')
    assert counts == [(0, 10, 10), (1, 0, 0)]
