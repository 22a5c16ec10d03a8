"""A training whose loss is no number ends."""

from types import SimpleNamespace

import pytest
import torch

from mambaout_mm.errors import UserError
from mambaout_mm.training.finite_loss import FiniteLossHook


def train(losses, interval=2):
    hook = FiniteLossHook(interval)
    for i, loss in enumerate(losses):
        runner = SimpleNamespace(iter=i, max_iters=len(losses))
        hook.after_train_iter(runner, i, None, dict(loss=torch.tensor(loss)))


NAN, INF = float('nan'), float('inf')


def test_a_batch_that_is_odd_is_no_end():
    train([1.0] * 4 + [INF] * 2 + [1.0] * 4 + [NAN] * 4 + [1.0] * 2)


def test_it_ends_at_the_third_look_in_a_row_and_names_the_first():
    with pytest.raises(UserError, match='the loss is nan since iteration 6 or a little before'):
        train([1.0] * 4 + [NAN] * 6 + [1.0] * 10)


def test_it_ends_at_the_end():
    with pytest.raises(UserError, match='the loss is inf since iteration 3'):
        train([1.0, 1.0, INF])
