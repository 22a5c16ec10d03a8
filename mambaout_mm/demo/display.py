"""What a person sees while a demo trains: progress and loss; the rest goes into a file."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mambaout_mm.errors import UserError

LOSS_LINES = 5


class Display(Hook):
    """A hook that shows a bar for training and evaluation, and the loss now and then.

    Args:
        console (Console): Where to.
    """

    priority = 'LOWEST'

    def __init__(self, console: Console) -> None:
        self.console = console
        self.losses: list[float] = []
        self.progress: Progress | None = None

    def before_train(self, runner: Runner) -> None:
        self._start('training', runner.max_iters, runner.iter)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        self.losses.append(outputs['loss'].item())
        done, total = runner.iter + 1, runner.max_iters
        self.progress.update(self.task, completed=done)
        if done % max(1, total // LOSS_LINES) == 0 or done == total:
            mean = sum(self.losses) / len(self.losses)
            line = f'iteration {done} of {total}: loss {mean:.3f} (mean of {len(self.losses)})'
            self.console.print(line, highlight=False)
            self.losses.clear()

    def before_val(self, runner: Runner) -> None:
        self._start('evaluating', len(runner.val_dataloader), 0)

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        self.progress.update(self.task, completed=batch_idx + 1)

    def after_val(self, runner: Runner) -> None:
        self.close()
        if runner.iter < runner.max_iters:
            self.before_train(runner)

    def close(self) -> None:
        """End the bar, as a terminal without one needs it."""
        if self.progress:
            self.progress.stop()

    def _start(self, what: str, total: int, done: int) -> None:
        self.close()
        self.progress = Progress(
            TextColumn('{task.description}'),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self.console,
            redirect_stdout=False,  # they go into the file
            redirect_stderr=False,
        )
        self.task = self.progress.add_task(what, total=total, completed=done)
        self.progress.start()


@contextmanager
def output_into(path: Path) -> Iterator[Display]:
    """Send what Python code prints, logs and warns into a file.

    Args:
        path (Path): The file; what another run left there stays in front.

    Yields:
        Display: What goes on to the screen.

    Raises:
        UserError: If the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open('a', buffering=1)
    except OSError as error:
        raise UserError(f'{str(path)!r} cannot be written: {error.strerror}') from error
    display = Display(Console(file=sys.stdout))
    with file, redirect_stdout(file), redirect_stderr(file):
        try:
            yield display
        finally:
            display.close()
