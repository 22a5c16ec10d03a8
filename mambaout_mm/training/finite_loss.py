"""Ends a training whose loss is no number any more."""

import math
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mambaout_mm.errors import UserError

IN_A_ROW = 3  # checks in a row with a loss that is no number; a single one may be an odd batch


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Stops with a sentence when the loss is NaN or infinite at several looks in a row.

    Args:
        interval (int): Iterations between two looks, each of which waits for the device. Defaults
            to 10.
    """

    def __init__(self, interval: int = 10) -> None:
        self.interval = interval
        self.since: list[int] = []

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Look at the loss.

        Raises:
            UserError: If it has been no number for long enough, or at the end of the training.
        """
        iteration = runner.iter + 1
        last = iteration == runner.max_iters
        if not (outputs and 'loss' in outputs and (last or iteration % self.interval == 0)):
            return
        loss = outputs['loss'].item()
        if math.isfinite(loss):
            self.since.clear()
            return
        self.since.append(iteration)
        if last or len(self.since) >= IN_A_ROW:
            raise UserError(
                f'the loss is {loss} since iteration {self.since[0]} or a little before: lower the '
                'learning rate (optim_wrapper.optimizer.lr), warm up for longer, or train without '
                '--amp. Checkpoints since then hold no usable weights; name an older one with '
                '--resume'
            )
