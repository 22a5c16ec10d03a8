"""The stand-in against what mmcv's compiled operators gave on a CPU.

tests/data/mmcv_ops.npz was written by ``PYTHONPATH=tests python`` and this file, with upstream mmcv
2.1.0 compiled beside PyTorch 2.1.2 as docs/environments.md says. Its other operators of the
stand-in (CARAFE, masked convolutions, focal losses, deformable attention) have no code for a CPU.
"""

import sys

import mmcv.ops as ops
import numpy as np
import pytest
import torch
from support import ROOT
from support_mmcv import STAND_IN, needs_stand_in, rand

PATH = ROOT / 'tests' / 'data' / 'mmcv_ops.npz'
CORNERS = rand(60, 2, seed=1, low=0, high=50)
BOXES = torch.cat([CORNERS, CORNERS + rand(60, 2, seed=2, low=1, high=25)], 1).float()
SCORES = rand(60, seed=3, low=0).float()
LABELS = rand(60, seed=4, low=0, high=5).long()
MAPS = rand(2, 4, 9, 11, seed=5).float()
ROIS = torch.cat([(torch.arange(12) % 2)[:, None].float(), BOXES[:12] / 4 - 1], 1)
OFFSETS = rand(2, 36, 9, 11, seed=6, low=-3, high=3).float()
MASKS = rand(2, 18, 9, 11, seed=7, low=0).float()
WEIGHT, BIAS = rand(6, 4, 3, 3, seed=8).float(), rand(6, seed=9).float()
ATTENTION = rand(2, 7 * 9, 4, 5, seed=10).float()


def roi_align(aligned):
    return lambda maps: ops.roi_align(maps, ROIS, (3, 3), 0.5, 2, 'avg', aligned)


def deform(maps, offsets, weight):
    return ops.deform_conv2d(maps, offsets, weight, 1, 1, 1, 1, 2)


def modulated(maps, offsets, masks, weight, bias):
    return ops.modulated_deform_conv2d(maps, offsets, masks, weight, bias, 1, 1, 1, 1, 2)


def psa_mask(kind):
    return lambda attention: ops.PSAMask(kind, (7, 9))(attention)


# Name: a function, and the inputs whose gradients count; none for what has no gradient.
CASES = {
    'nms': (lambda: ops.nms(BOXES, SCORES, 0.5), []),
    'nms with offset': (lambda: ops.nms(BOXES, SCORES, 0.5, offset=1), []),
    'nms by label': (
        lambda: ops.batched_nms(BOXES, SCORES, LABELS, dict(type='nms', iou_threshold=0.5)),
        [],
    ),
    'soft nms, linear': (lambda: ops.soft_nms(BOXES, SCORES, 0.3, method='linear'), []),
    'soft nms, gaussian': (lambda: ops.soft_nms(BOXES, SCORES, 0.3, method='gaussian'), []),
    'soft nms, naive': (lambda: ops.soft_nms(BOXES, SCORES, 0.3, method='naive'), []),
    'roi align': (roi_align(False), [MAPS]),
    'roi align, aligned': (roi_align(True), [MAPS]),
    'deform conv': (deform, [MAPS, OFFSETS, WEIGHT]),
    'modulated deform conv': (modulated, [MAPS, OFFSETS, MASKS, WEIGHT, BIAS]),
    'psa mask, collect': (psa_mask('collect'), [ATTENTION]),
    'psa mask, distribute': (psa_mask('distribute'), [ATTENTION]),
}


def results_of(name):
    """What a case gives, and its gradients."""
    function, inputs = CASES[name]
    inputs = [x.clone().requires_grad_() for x in inputs]
    out = function(*inputs)
    if not inputs:
        return list(out)
    return [out.detach(), *torch.autograd.grad((out + out**2).sum(), inputs)]


@needs_stand_in
@pytest.mark.parametrize('name', CASES)
def test_gives_what_the_compiled_operators_gave(name):
    with np.load(PATH) as arrays:
        expected = [arrays[key] for key in arrays if key.rpartition('/')[0] == name]
    results = results_of(name)
    assert len(results) == len(expected)
    for result, array in zip(results, expected, strict=True):
        torch.testing.assert_close(result, torch.from_numpy(array), rtol=1e-5, atol=1e-5)


if __name__ == '__main__':
    if STAND_IN:
        sys.exit('error: mmcv has no compiled operators here')
    arrays = {f'{name}/{i}': x.numpy() for name in CASES for i, x in enumerate(results_of(name))}
    np.savez_compressed(PATH, **arrays)
