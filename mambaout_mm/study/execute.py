"""Run a task of a study: the commands that a person would type, one after the other."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from mambaout_mm.errors import UserError
from mambaout_mm.files import write_text

from .plan import Task

LOG = 'study.log'
FAILED = 'failed.txt'


def train_command(tools: Path, task: Task, gpus: int, options: Sequence[str]) -> list[str]:
    """Start a training, or go on with it; one that is over ends at once.

    Args:
        tools (Path): The folder of train.py.
        task (Task): What to train.
        gpus (int): Processes, one for each GPU.
        options (Sequence[str]): Further ones of tools/train.py.
    """
    launched = ['-m', 'torch.distributed.run', f'--nproc_per_node={gpus}', '--rdzv-backend=c10d',
                '--rdzv-endpoint=localhost:0'] if gpus > 1 else []  # fmt: skip
    return [
        sys.executable,
        *launched,
        str(tools / 'train.py'),
        str(task.candidate.config),
        '--work-dir',
        str(task.folder),
        '--resume',
        *options,
        *(['--launcher', 'pytorch'] if gpus > 1 else []),
        '--cfg-options',
        f'randomness.seed={task.seed}',
    ]


def test_command(tools: Path, task: Task) -> list[str]:
    """Test the last checkpoint and write its predictions.

    Raises:
        UserError: If there is no checkpoint.
    """
    last = task.folder / 'last_checkpoint'
    if not last.is_file():
        raise UserError(f'{task.folder} has no checkpoint (default_hooks.checkpoint writes none)')
    checkpoint = task.folder / Path(last.read_text().strip()).name
    return [
        sys.executable,
        str(tools / 'test.py'),
        str(task.candidate.config),
        str(checkpoint),
        '--work-dir',
        str(task.folder / 'test'),
        '--out',
        str(task.predictions),
    ]


def run_task(tools: Path, task: Task, gpus: int = 1, options: Sequence[str] = ()) -> str:
    """Train and test, unless the predictions are there.

    What both print goes to ``study.log`` in the task's folder. A failure leaves its reason there in
    ``failed.txt``, which the next try removes.

    Returns:
        str: Why it failed; '' if it did not.
    """
    if task.predictions.exists():
        return ''
    task.folder.mkdir(parents=True, exist_ok=True)
    failed = task.folder / FAILED
    failed.unlink(missing_ok=True)
    log = task.folder / LOG
    reason = _run(train_command(tools, task, gpus, options), log)
    if not reason:
        try:
            reason = _run(test_command(tools, task), log)
        except UserError as error:
            reason = str(error)
    if not reason and not task.predictions.exists():
        reason = f'the test wrote no {task.predictions}'
    if reason:
        write_text(failed, reason + '\n')
    return reason


def _run(command: list[str], log: Path) -> str:
    """The last words of a command that fails, or ''."""
    with log.open('a') as file:
        file.write(f'$ {" ".join(command)}\n')
        file.flush()
        code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT).returncode
    if not code:
        return ''
    if code < 0:
        return f'ended by signal {-code}'
    lines = [line.strip() for line in log.read_text(errors='replace').splitlines()]
    said = [line for line in lines if line.lower().startswith('error:')]
    last = next((line for line in reversed(lines) if line), '')
    return (said[-1][len('error:') :].strip() if said else last) or f'exit code {code}'


def reason_of_failure(task: Task) -> str:
    """Why a task failed last; '' if it did not."""
    path = task.folder / FAILED
    return path.read_text().strip() if path.is_file() else ''
