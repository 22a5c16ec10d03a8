"""Stopping a training from outside: one line instead of a traceback."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from mmengine.dist import is_main_process
from mmengine.runner import Runner

from .checkpoint_files import newest_whole_checkpoint


class Stopped(BaseException):
    """SIGTERM arrived, as when a scheduler ends a job. No ``except Exception`` takes it."""


class Watched:
    """What is being trained, once it is known."""

    runner: Runner | None = None


@contextmanager
def told_when_stopped() -> Iterator[Watched]:
    """End on SIGINT (Ctrl-C) or SIGTERM with a line on stderr and exit code 130 or 143.

    Yields:
        Watched: For the runner, whose iteration the line names.
    """
    process = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:  # a forked worker that loads data
            os._exit(128 + number)
        raise Stopped

    before = signal.signal(signal.SIGTERM, stop)
    watched = Watched()
    try:
        yield watched
    except (KeyboardInterrupt, Stopped) as error:
        if is_main_process():
            print(_line(watched.runner), file=sys.stderr)
        sys.exit(143 if isinstance(error, Stopped) else 130)
    finally:
        signal.signal(signal.SIGTERM, before)
        watched.runner = None  # which would hold its process group


def _line(runner: Runner | None) -> str:
    if runner is None:
        return 'stopped before the first iteration; the same command starts anew'
    where = f'stopped at iteration {runner.iter} of {runner.max_iters}'
    checkpoint = newest_whole_checkpoint(runner.work_dir)
    if checkpoint is None:
        return f'{where}, before the first checkpoint; the same command starts anew'
    return f'{where}; the same command with --resume goes on from {checkpoint}'
