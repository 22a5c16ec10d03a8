"""One training to a work dir."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mambaout_mm.errors import UserError

# Of torchrun, Slurm and Open MPI; there is no process group yet when the folder is locked.
RANKS = dict(pytorch='RANK', slurm='SLURM_PROCID', mpi='OMPI_COMM_WORLD_RANK')


@contextmanager
def locked(work_dir: str | Path, launcher: str = 'none') -> Iterator[None]:
    """Hold ``work_dir`` for this training, by a file ``.lock`` with process and host.

    A file whose process has ended is taken over.

    Args:
        work_dir (str | Path): Made if it is not there.
        launcher (str): Of a distributed run, whose first process alone holds the folder. Defaults
            to 'none'.

    Raises:
        UserError: If another training holds it, or it cannot be made.
    """
    if os.environ.get(RANKS.get(launcher, ''), '0') != '0':
        yield
        return
    path = Path(work_dir) / '.lock'
    mine = dict(pid=os.getpid(), host=socket.gethostname())
    try:
        str(path).encode()  # MMEngine writes it into its log
        path.parent.mkdir(parents=True, exist_ok=True)
        if _is_stale(path, mine):
            path.unlink(missing_ok=True)
        with path.open('x') as file:
            json.dump(mine, file)
    except FileExistsError as error:
        if not path.parent.is_dir():
            raise UserError(f'the work dir {str(work_dir)!r} is a file') from error
        raise UserError(
            f'another training runs in {str(work_dir)!r} ({_holder(path)}); give this one '
            f'another --work-dir, or remove {str(path)!r} if that one has ended'
        ) from error
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte, or no UTF-8
        raise UserError(f'the work dir {str(work_dir)!r} cannot be used: {error}') from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _holder(path: Path) -> str:
    return path.read_text(errors='replace') if path.is_file() else 'its lock is no file'


def _is_stale(path: Path, mine: dict) -> bool:
    """Whether the lock's process has surely ended: on this host there is none of its number."""
    if path.exists() and not path.is_file():  # to read a pipe would wait for ever
        return False
    try:
        other = json.loads(path.read_text())
        pid, host = int(other['pid']), other['host']
    except FileNotFoundError:
        return False
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return True  # cut off when its writer was killed
    if host != mine['host']:
        return False
    if pid == mine['pid']:  # of a container before this one, whose processes had the same numbers
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        return False
    return False
