"""Files that are whole at any moment, and folders that can be written to."""

import csv
import io
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import UserError

LONGEST_NAME = 255  # bytes, of the usual file systems


@contextmanager
def whole_file(path: Path, needs: int | None = None) -> Iterator[Path]:
    """A temporary name beside ``path``, which takes its place when all is written and on disk.

    Args:
        path (Path): The file; its folder is made.
        needs (int, optional): Bytes of the file, for the message on a full disk. Defaults to None:
            not known before it is written.

    Yields:
        Path: Where to write; of the same type as ``path``.

    Raises:
        UserError: If the system refuses; what was at ``path`` before is still whole.
    """
    # MMEngine writes some files in every process of a run at once.
    rank = os.environ.get('RANK', '0')
    mark = '.' if rank == '0' else f'.{rank}-'
    name = os.fsencode(mark) + os.fsencode(path.name)[len(mark) - LONGEST_NAME :]
    unfinished = path.with_name(os.fsdecode(name))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield unfinished
        with unfinished.open('rb') as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        _remove(unfinished)  # before free bytes are counted
        raise UserError(_refusal(path, error, needs)) from error
    finally:
        _remove(unfinished)


def _remove(unfinished: Path) -> None:
    try:
        unfinished.unlink(missing_ok=True)
    except OSError:  # its folder is a file, or its name too long: it never came to be
        return


def _refusal(path: Path, error: OSError, needs: int | None) -> str:
    sentence = f'{str(path)!r} cannot be written: {error.strerror or error}'
    if path.parent.is_dir():
        free = shutil.disk_usage(path.parent).free
        wanted = f'it needs {needs:,} bytes, ' if needs is not None else ''
        sentence += f'; {wanted}{free:,} bytes are free there: make room, or name another folder'
    return sentence + ('. What was there before is whole' if os.path.isfile(path) else '')


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file by :func:`whole_file`."""
    with whole_file(path, needs=len(content)) as unfinished:
        unfinished.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8 by :func:`whole_file`."""
    write_bytes(path, text.encode())


def write_csv(path: Path, rows: list[dict[str, Any]], columns: Sequence[str] = ()) -> None:
    """Write rows; what was there is replaced as a whole.

    Args:
        path (Path): The file.
        rows (list[dict[str, Any]]): All with the same keys.
        columns (Sequence[str]): The header. Defaults to the keys of the first row.

    Raises:
        UserError: If it cannot be written.
    """
    text = io.StringIO(newline='')
    writer = csv.DictWriter(text, columns or rows[0])
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_file(path: Path) -> str:
    """The text of a file, in UTF-8; a pipe of its name, which would be waited for, is refused.

    Raises:
        OSError: Also if there is anything but a file.
        UnicodeDecodeError: If it is no text.
    """
    if path.exists() and not path.is_file():
        raise OSError(f'{str(path)!r} is no file')
    return path.read_text(encoding='utf-8')


@contextmanager
def noted(failures: list[str]) -> Iterator[None]:
    """Put the message of a file that cannot be written to a list, so that others are written."""
    try:
        yield
    except UserError as error:
        failures.append(str(error))


def check_folder(folder: str | Path, what: str) -> Path:
    """Check that files can be written to a folder, before hours are spent on what goes there.

    Args:
        folder (str | Path): Made if it is not there.
        what (str): What the message calls it, as in 'the work dir'.

    Returns:
        Path: The folder.

    Raises:
        UserError: If it is a file, cannot be made, or nothing can be written to it.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        inside = next((part for part in (folder, *folder.parents) if os.path.isfile(part)), None)
        said = getattr(error, 'strerror', None) or str(error)
        reason = f'{str(inside)!r} is a file' if inside else said
        raise UserError(
            f'{what} {str(folder)!r} cannot be used: {reason}; name another folder'
        ) from error
    return folder
