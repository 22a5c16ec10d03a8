"""Checkpoints that are whole or not there, and the newest of them to go on from."""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.fileio.backends import LocalBackend
from mmengine.fileio.backends.registry_utils import backends, prefix_to_backends
from mmengine.fileio.io import backend_instances
from mmengine.hooks import CheckpointHook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mambaout_mm.checkpoints import read_checkpoint
from mambaout_mm.errors import UserError
from mambaout_mm.files import write_bytes, write_text

PREEMPTED = 'preempted.pth'  # written where a scheduler stops a training, until the next checkpoint


class WholeFileBackend(LocalBackend):
    """MMEngine's local files; a new one takes the place of the old one when it is whole."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes by :func:`mambaout_mm.files.whole_file`.

        Args:
            obj (bytes): All of the file.
            filepath (str | Path): Where to.

        Raises:
            UserError: If the system refuses; what was there before is still whole.
        """
        write_bytes(Path(filepath), obj)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = 'utf-8') -> None:
        """:meth:`put` of a text."""
        self.put(obj.encode(encoding), filepath)


@contextmanager
def whole_files() -> Iterator[None]:
    """Have MMEngine write local files by :class:`WholeFileBackend`."""
    before = backends['local'], prefix_to_backends['']
    made = dict(backend_instances)  # which mmengine.dump takes again
    backend_instances.clear()
    backends['local'] = prefix_to_backends[''] = WholeFileBackend
    try:
        yield
    finally:
        backends['local'], prefix_to_backends[''] = before
        backend_instances.clear()
        backend_instances.update(made)


class _RemovesLater:
    """A file backend that keeps what it is to remove until :meth:`finish`."""

    def __init__(self, backend: LocalBackend) -> None:
        self._backend = backend
        self._doomed: list[tuple[str, str]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def remove(self, path: str) -> None:
        self._doomed.append(('remove', path))

    def rmtree(self, path: str) -> None:
        self._doomed.append(('rmtree', path))

    def finish(self) -> None:
        for how, path in self._doomed:
            if self._backend.exists(path):
                getattr(self._backend, how)(path)


@HOOKS.register_module()
class KeepingCheckpointHook(CheckpointHook):
    """MMEngine's CheckpointHook, which removes an old checkpoint after the new one is written.

    MMEngine removes it before: killed in between, a training with ``max_keep_ckpts=1`` has none,
    or ``last_checkpoint`` names a file that is gone. Takes the same arguments.
    """

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        kept = self.keep_ckpt_ids
        removed = []
        if self.max_keep_ckpts > 0 and step not in list(kept)[-1:]:
            while len(kept) >= self.max_keep_ckpts:
                removed.append(self.filename_tmpl.format(kept.popleft()))
            kept.append(step)
            runner.message_hub.update_info('keep_ckpt_ids', list(kept))
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if not is_main_process():
            return
        write_text(Path(runner.work_dir) / 'last_checkpoint', self.last_ckpt)
        preempted = Path(runner.work_dir) / PREEMPTED
        if not preempted.is_dir():
            preempted.unlink(missing_ok=True)
        for name in removed:
            path = self.file_backend.join_path(self.out_dir, name)
            if self.file_backend.isfile(path):
                self.file_backend.remove(path)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        backend = self.file_backend
        self.file_backend = later = _RemovesLater(backend)
        try:
            super()._save_best_checkpoint(runner, metrics)
        finally:
            self.file_backend = backend
        later.finish()


def newest_whole_checkpoint(work_dir: str | Path) -> str | None:
    """The checkpoint with the most iterations that reads whole; says which others it skips.

    Removes what a killed run has left unfinished. MMEngine's ``last_checkpoint`` is not asked: it
    may name a file that is gone, cut off, or, where the folder has moved, elsewhere.

    Args:
        work_dir (str | Path): Of a training by this project's tools, or MMEngine's.

    Returns:
        str | None: Its path; None where there is no checkpoint at all.

    Raises:
        UserError: If there are checkpoints, but none that reads whole.
    """
    for path in Path(work_dir).glob('.*.pth'):
        if not path.is_dir():
            path.unlink(missing_ok=True)  # of a run that was killed while it wrote
    numbered = []
    for path in Path(work_dir).glob('*.pth'):
        kind, _, number = path.stem.partition('_')
        if kind in ('epoch', 'iter') and number.isdecimal():
            numbered.append((int(number), path))
    numbered.sort(reverse=True)
    whole = []
    preempted = Path(work_dir) / PREEMPTED
    if preempted.is_file() and _is_whole(preempted):
        whole.append(preempted)
    whole += next(([path] for _, path in numbered if _is_whole(path)), [])
    if not whole and numbered:
        raise UserError(
            f'no checkpoint in {str(work_dir)!r} reads whole; remove them to start anew, or name '
            'one with --resume'
        )
    return str(max(whole, key=_iterations)) if len(whole) > 1 else next(map(str, whole), None)


def _is_whole(path: Path) -> bool:
    wrong = what_is_wrong(path)
    if wrong:
        print_log(f'{path} is skipped: {wrong}', logger='current', level=30)
    return not wrong


def _iterations(path: Path) -> int:
    meta = read_checkpoint(str(path)).get('meta')
    iterations = meta.get('iter') if isinstance(meta, dict) else None
    return iterations if isinstance(iterations, int) else 0


def what_is_wrong(path: Path) -> str:
    """Why a checkpoint file cannot be read; '' if all its bytes are those that were written.

    Nothing in it is unpickled.
    """
    if not path.is_file():  # a pipe would be waited for
        return 'it is no file'
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except (OSError, zipfile.BadZipFile) as error:
        return f'it is no whole checkpoint ({error})'
    return f'its part {broken!r} is damaged' if broken else ''
