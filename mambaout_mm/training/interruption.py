"""Stopping a training from outside: one line instead of a traceback, a checkpoint where asked."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.dist import all_reduce, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from .checkpoint_files import PREEMPTED, newest_whole_checkpoint

# With which a scheduler can be told to announce the end, as in `sbatch --signal=USR1@120`.
SIGNALS = ('SIGUSR1', 'SIGUSR2', 'SIGTERM')


class Stopped(BaseException):
    """A signal arrived, as when a scheduler ends a job. No ``except Exception`` takes it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class SaveThenStopHook(Hook):
    """Writes a checkpoint and stops at the end of the iteration in which a signal arrived.

    The processes of a distributed training agree at each iteration, so that all stop at the same.

    Args:
        save_on (str): Name of the signal, one of ``SIGNALS``.

    Attributes:
        signal (signal.Signals): The same as a number.
        arrived (int): The number of the signal; 0 before it arrives.
    """

    priority = 'VERY_LOW'  # after the checkpoint of the iteration itself, if one is due

    def __init__(self, save_on: str) -> None:
        self.signal = signal.Signals[save_on]
        self.arrived = 0

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Stop where asked.

        Raises:
            Stopped: After the checkpoint is written.
        """
        self._stop_if_asked(runner, runner.iter + 1)

    def after_val_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Stop where asked; the validation is not taken up again.

        Raises:
            Stopped: After the checkpoint is written.
        """
        self._stop_if_asked(runner, runner.iter)

    def _stop_if_asked(self, runner: Runner, iterations: int) -> None:
        number = self.arrived
        if get_world_size() > 1:
            asked = torch.tensor(number, device=get_device())
            all_reduce(asked, 'max')
            number = int(asked)
        if number:
            meta = dict(epoch=runner.epoch, iter=iterations)
            runner.save_checkpoint(runner.work_dir, PREEMPTED, meta=meta, by_epoch=False)
            raise Stopped(number)


class Watched:
    """What is being trained, once it is known."""

    runner: Runner | None = None


@contextmanager
def told_when_stopped(saver: SaveThenStopHook | None = None) -> Iterator[Watched]:
    """End on SIGINT (Ctrl-C) or SIGTERM with a line on stderr and exit code 130 or 143.

    Args:
        saver (SaveThenStopHook, optional): To be told of its signal; the exit code is 128 and the
            signal's number then. Defaults to None.

    Yields:
        Watched: For the runner, whose iteration the line names.
    """
    process = os.getpid()
    arrived: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:  # a forked worker that loads data
            os._exit(128 + number)
        arrived.append(number)
        raise Stopped(number)

    def save_then_stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() == process:
            saver.arrived = number

    handlers = {signal.SIGTERM: stop}
    # Shells start background jobs with SIGINT ignored.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        handlers[signal.SIGINT] = stop
    if saver is not None:
        handlers[saver.signal] = save_then_stop
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    watched = Watched()
    try:
        yield watched
    except BaseException as error:
        if isinstance(error, Stopped):
            number = error.number
        elif arrived:  # a library took it in a bare `except` and raised something else
            number = arrived[-1]
        elif isinstance(error, KeyboardInterrupt):
            number = signal.SIGINT
        else:
            raise
        if is_main_process():
            print(_line(watched.runner), file=sys.stderr)
        sys.exit(128 + number)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        watched.runner = None  # which would hold its process group


def _line(runner: Runner | None) -> str:
    if runner is None:
        return 'stopped before the first iteration; the same command starts anew'
    where = f'stopped at iteration {runner.iter} of {runner.max_iters}'
    checkpoint = newest_whole_checkpoint(runner.work_dir)
    if checkpoint is None:
        return f'{where}, before the first checkpoint; the same command starts anew'
    return f'{where}; the same command with --resume goes on from {checkpoint}'
