"""Focal losses of the stand-in for mmcv._ext."""

import math

import mmcv.ops as ops
import pytest
import torch
import torch.nn.functional as F
from support_mmcv import check, in_dtypes, leaves, needs_stand_in, on_devices, rand, run

pytestmark = needs_stand_in


def plain_sigmoid_focal_loss(x, target, gamma, alpha, weight=None):
    flag = F.one_hot(target, x.shape[1] + 1)[:, :-1].bool()
    p, q = x.sigmoid(), (-x).sigmoid()
    loss = torch.where(
        flag,
        -alpha * q.pow(gamma) * F.logsigmoid(x),
        -(1 - alpha) * p.pow(gamma) * F.logsigmoid(-x),
    )
    return loss if weight is None else loss * weight.to(x)[target][:, None]


def plain_softmax_focal_loss(x, target, gamma, alpha, weight=None):
    log_p = F.log_softmax(x, 1).gather(1, target.clamp(min=0)[:, None])[:, 0]
    loss = -alpha * (1 - log_p.exp()).pow(gamma) * log_p
    loss = loss if weight is None else loss * weight.to(x)[target.clamp(min=0)]
    return loss * (target >= 0)


CLASS_WEIGHTS = torch.tensor([0.5, 2.0, 1.0])


@on_devices
@in_dtypes
@pytest.mark.parametrize('gamma, alpha', [(2.0, 0.25), (0.0, 0.5), (1.5, 0.9)])
@pytest.mark.parametrize('weighted', [False, True])
def test_sigmoid_focal_loss(device, dtype, gamma, alpha, weighted):
    target = torch.tensor([0, 1, 2, 1, 0]) if weighted else torch.tensor([0, 3, 2, 1, 3])
    weight = CLASS_WEIGHTS if weighted else None

    def ours(x):
        w = weight.to(x) if weighted else None
        return ops.sigmoid_focal_loss(x, target.to(x.device), gamma, alpha, w, 'none')

    check(
        ours,
        lambda x: plain_sigmoid_focal_loss(x, target, gamma, alpha, weight),
        [rand(5, 3, seed=71, low=-4, high=4)],
        dtype,
        device,
        rand(5, 3, seed=72),
    )


@on_devices
@in_dtypes
@pytest.mark.parametrize('gamma, alpha', [(2.0, 0.25), (0.0, 0.5), (0.5, 0.9)])
@pytest.mark.parametrize('weighted', [False, True])
def test_softmax_focal_loss(device, dtype, gamma, alpha, weighted):
    target = torch.tensor([0, -1, 2, 1, 2])
    weight = CLASS_WEIGHTS if weighted else None

    def ours(x):
        w = weight.to(x) if weighted else None
        return ops.softmax_focal_loss(x, target.to(x.device), gamma, alpha, w, 'sum')

    check(
        ours,
        lambda x: plain_softmax_focal_loss(x, target, gamma, alpha, weight).sum(),
        [rand(5, 3, seed=73, low=-3, high=3)],
        dtype,
        device,
        torch.tensor(0.75),
        slack=torch.finfo(dtype).eps,  # mmcv's wrapper adds up rows that are rounded to dtype
    )


@on_devices
@pytest.mark.parametrize('reduction', ['mean', 'sum'])
def test_focal_losses_reduce_over_the_rows(device, reduction):
    target = torch.tensor([0, 2, 1])
    for loss, plain in (
        (ops.sigmoid_focal_loss, plain_sigmoid_focal_loss),
        (ops.softmax_focal_loss, plain_softmax_focal_loss),
    ):
        x = rand(3, 3, seed=75)
        rows = 3 if reduction == 'mean' else 1
        got = run(
            lambda t, loss=loss: loss(t, target.to(t.device), 2.0, 0.25, None, reduction),
            leaves([x], torch.float64, device),
        )
        expected = run(
            lambda t, plain=plain, rows=rows: plain(t, target, 2.0, 0.25).sum() / rows,
            leaves([x], torch.float64),
        )
        for ours, reference in zip(got, expected, strict=True):
            assert torch.allclose(ours, reference, atol=1e-12)


@on_devices
@pytest.mark.parametrize('gamma', [0.0, 0.5, 1.0, 2.0])
def test_focal_losses_at_extreme_logits(device, gamma):
    cliff = -math.log(torch.finfo(torch.float32).tiny)  # 87.3: where mmcv's formula stops rising
    x = torch.tensor([[-200.0, 200.0, 30.0], [-30.0, 0.0, -80.0]], device=device)
    target = torch.tensor([0, 1], device=device)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        values, grad = run(
            lambda t: ops.sigmoid_focal_loss(t, target, gamma, 0.25, None, 'none'),
            leaves([x], dtype, device),
        )
        exact = plain_sigmoid_focal_loss(x.double().cpu(), target.cpu(), gamma, 0.25)
        rtol = 1e-2 if dtype == torch.bfloat16 else 1e-5
        weights = torch.tensor([[0.25, 0.75, 0.75], [0.75, 0.25, 0.75]])
        assert torch.allclose(values, torch.minimum(exact, weights * cliff), rtol=rtol, atol=1e-9)
        assert torch.allclose(grad[0], torch.tensor([-0.25, 0.75, 0.75]).double(), atol=1e-6)

        values, grad = run(
            lambda t: ops.softmax_focal_loss(t, target, gamma, 0.25, None, 'sum'),
            leaves([x], dtype, device),
        )
        assert values.isfinite() and grad.isfinite().all()
        assert torch.allclose(grad[0], torch.tensor([-0.25, 0.25, 0.0]).double(), atol=1e-6)


def test_focal_losses_check_the_classes():
    x = torch.zeros(2, 3)
    background = torch.tensor([0, 3])
    assert ops.sigmoid_focal_loss(x, background).isfinite()
    with pytest.raises(ValueError, match='classes 0 to 3, allowed are 0 to 2'):
        ops.sigmoid_focal_loss(x, background, 2.0, 0.25, torch.ones(3))
    with pytest.raises(ValueError, match='classes -1 to 0'):
        ops.sigmoid_focal_loss(x, torch.tensor([0, -1]), 2.0, 0.25, torch.ones(3))
    with pytest.raises(ValueError, match='at most 3'):
        ops.sigmoid_focal_loss(x, torch.tensor([0, 4]))
    with pytest.raises(ValueError, match='at most 2'):
        ops.softmax_focal_loss(x, background)


def test_focal_losses_without_rows():
    x, target = torch.zeros(0, 3, requires_grad=True), torch.zeros(0, dtype=torch.long)
    for loss in (ops.sigmoid_focal_loss, ops.softmax_focal_loss):
        output = loss(x, target, 2.0, 0.25, None, 'sum')
        assert output == 0
        assert torch.autograd.grad(output, x)[0].shape == (0, 3)
