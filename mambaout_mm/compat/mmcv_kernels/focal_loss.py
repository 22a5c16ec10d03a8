"""Sigmoid and softmax focal losses."""

from __future__ import annotations

import torch
from torch import Tensor

from .as_compiled import as_compiled, widened

# The least argument of the logarithms in mmcv's focal losses: C's FLT_MIN, for every dtype.
FLT_MIN = torch.finfo(torch.float32).tiny


@as_compiled
def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Sigmoid focal loss per element (mmcv/ops/focal_loss.py).

    With ``p = sigmoid(x)``: ``-alpha * (1 - p)**gamma * log(p)`` in the column of the row's class
    and ``-(1 - alpha) * p**gamma * log(1 - p)`` in the others. The logarithms' arguments are at
    least FLT_MIN, as in mmcv's kernel (sigmoid_focal_loss_cuda_kernel.cuh). ``1 - p`` is taken as
    ``sigmoid(-x)``, which mmcv's subtraction rounds to 0 for ``x`` above 17 in float32: there its
    loss value for a wrong class jumps to 87.3, while the one here follows the formula.

    Args:
        input (Tensor): Logits of shape (N, C), floating.
        target (Tensor): Classes of shape (N,), int64; C means background: no column is positive.
        weight (Tensor): Weights of the classes of shape (C,), or empty for none.
        output (Tensor): Output of shape (N, C).
        gamma (float): Focusing exponent.
        alpha (float): Weight of the positive column.

    Raises:
        ValueError: If a class is larger than C; or, with class weights, if one is outside
            ``[0, C)``: background has no weight (mmcv's kernel reads past the weights' end).
    """
    classes = input.shape[1]
    if weight.numel():
        _check_classes(target, classes - 1, lowest=0)
    else:
        _check_classes(target, classes)
    x, weight = widened(input, weight)
    p, q = x.sigmoid(), (-x).sigmoid()  # (N, C)
    hit = -alpha * q**gamma * p.clamp(min=FLT_MIN).log()
    miss = -(1 - alpha) * p**gamma * q.clamp(min=FLT_MIN).log()
    loss = torch.where(_one_hot(target, classes), hit, miss)
    output.copy_(loss * weight[target][:, None] if weight.numel() else loss)


@as_compiled
def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Gradient of the sum of :func:`sigmoid_focal_loss_forward`.

    Args:
        input (Tensor): Logits of shape (N, C), floating.
        target (Tensor): Classes of shape (N,), int64, as checked by the forward pass.
        weight (Tensor): Weights of the classes of shape (C,), or empty for none.
        grad_input (Tensor): Output of shape (N, C).
        gamma (float): Focusing exponent.
        alpha (float): Weight of the positive column.
    """
    x, weight = widened(input, weight)
    p, q = x.sigmoid(), (-x).sigmoid()  # (N, C)
    hit = -alpha * q**gamma * (q - gamma * p * p.clamp(min=FLT_MIN).log())
    miss = -(1 - alpha) * p**gamma * (gamma * q * q.clamp(min=FLT_MIN).log() - p)
    grad = torch.where(_one_hot(target, input.shape[1]), hit, miss)
    grad_input.copy_(grad * weight[target][:, None] if weight.numel() else grad)


@as_compiled
def softmax_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Softmax focal loss per row (mmcv/ops/focal_loss.py).

    ``-alpha * (1 - p)**gamma * log(max(p, FLT_MIN))`` with ``p`` the probability of the row's
    class, as in mmcv's kernel (softmax_focal_loss_cuda_kernel.cuh).

    Args:
        input (Tensor): Softmax of the logits, shape (N, C), floating.
        target (Tensor): Classes of shape (N,), int64; rows of a negative class are ignored.
        weight (Tensor): Weights of the classes of shape (C,), or empty for none.
        output (Tensor): Output of shape (N,).
        gamma (float): Focusing exponent.
        alpha (float): Factor of the loss.

    Raises:
        ValueError: If a class is not below C (mmcv's kernel reads past the row's end).
    """
    _check_classes(target, input.shape[1] - 1)
    p, class_weight = _row_terms(input, target, weight)
    loss = -alpha * (1 - p) ** gamma * p.clamp(min=FLT_MIN).log()  # (N,)
    output.copy_((loss * class_weight).masked_fill(target < 0, 0))


@as_compiled
def softmax_focal_loss_backward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    buff: Tensor,
    grad_input: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Gradient of the sum of :func:`softmax_focal_loss_forward` for the logits.

    Args:
        input (Tensor): Softmax of the logits, shape (N, C), floating.
        target (Tensor): Classes of shape (N,), int64, as checked by the forward pass.
        weight (Tensor): Weights of the classes of shape (C,), or empty for none.
        buff (Tensor): Output of shape (N,): the derivative by the logarithm of the row's ``p``.
        grad_input (Tensor): Output of shape (N, C).
        gamma (float): Focusing exponent.
        alpha (float): Factor of the loss.
    """
    p, class_weight = _row_terms(input, target, weight)
    slope = gamma * (1 - p) ** (gamma - 1) * p * p.clamp(min=FLT_MIN).log()  # (N,)
    # At p = 1 the slope's limit is 0, but a gamma below 1 makes it 0 * inf.
    slope = slope.masked_fill(p == 1, 0)
    row = alpha * (slope - (1 - p) ** gamma) * class_weight
    row = row.masked_fill(target < 0, 0)
    buff.copy_(row)
    grad_input.copy_(row[:, None] * (_one_hot(target, input.shape[1]).to(row) - input))


def _check_classes(target: Tensor, highest: int, lowest: int | None = None) -> None:
    """Raises ValueError for classes above ``highest`` or, if one is given, below ``lowest``."""
    if not target.numel():
        return
    low, high = (int(t) for t in target.aminmax())
    if high > highest or (lowest is not None and low < lowest):
        allowed = f'at most {highest}' if lowest is None else f'{lowest} to {highest}'
        raise ValueError(f'focal loss: target has classes {low} to {high}, allowed are {allowed}')


def _one_hot(target: Tensor, classes: int) -> Tensor:
    """Bool tensor of shape (N, C); a row whose class is outside ``[0, C)`` is False throughout."""
    return target[:, None] == torch.arange(classes, device=target.device)


def _row_terms(softmax: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Probability and weight of each row's class, both (N,); arbitrary for negative classes."""
    softmax, weight = widened(softmax, weight)
    label = target.clamp(min=0)
    p = softmax.gather(1, label[:, None])[:, 0]
    return p, weight[label] if weight.numel() else torch.ones_like(p)
