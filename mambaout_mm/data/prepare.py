"""Download, verify and unpack COCO 2017 and ADE20K; run by ``tools/prepare_data.py``.

Every step can be interrupted and run again: a download goes on from its ``.part`` file, unpacking
writes only the files that are not there yet, and nothing carries its final name before it is whole.
"""

import hashlib
import os
import shlex
import shutil
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path, PurePosixPath, PureWindowsPath

from rich import progress
from rich.filesize import decimal

from mambaout_mm.errors import UserError

from .catalogue import Archive, Dataset

_CHUNK = 1 << 20
# Without it a server that stops sending would hang the tool for ever.
_STALL_SECONDS = 30
_NETWORK_ERRORS = (urllib.error.URLError, HTTPException, ConnectionError, TimeoutError)


@dataclass(frozen=True)
class Entry:
    """How much of one expected folder or file is there.

    Args:
        path (Path): The folder or file.
        found (int): Images in the folder; 1 for a file that exists.
        expected (int): What ``found`` has to reach.
    """

    path: Path
    found: int
    expected: int

    @property
    def complete(self) -> bool:
        """Whether nothing is missing."""
        return self.found >= self.expected

    def __str__(self) -> str:
        state = 'present' if self.complete else 'incomplete' if self.found else 'missing'
        count = f' ({self.found} of {self.expected} images)' if self.expected > 1 else ''
        return f'{state:<11} {self.path}{count}'


def missing(dataset: Dataset, root: Path) -> list[str]:
    """Say what of a dataset is not there, without downloading anything.

    Args:
        dataset (Dataset): One of :data:`~mambaout_mm.data.catalogue.DATASETS`.
        root (Path): Folder that holds the datasets.

    Returns:
        list[str]: A line for each missing or incomplete folder or file; empty where all is there.
    """
    found = _entries(dataset.archives, root / dataset.folder)
    return [str(entry) for entry in found if not entry.complete]


def check(dataset: Dataset, root: Path) -> bool:
    """Print the state of every expected folder and file, and the command to type next.

    Args:
        dataset (Dataset): One of :data:`~mambaout_mm.data.catalogue.DATASETS`.
        root (Path): Folder that holds the datasets.

    Returns:
        bool: Whether the dataset is complete.
    """
    print(*_entries(dataset.archives, root / dataset.folder), sep='\n')
    complete = not missing(dataset, root)
    if complete:
        print(f'next: {_train_command(dataset, root)}')
    else:
        place = '' if root == Path('data') else f' --root {shlex.quote(str(root))}'
        print(f'next: python tools/prepare_data.py {dataset.name}{place}')
    return complete


def prepare(dataset: Dataset, root: Path) -> None:
    """Download, verify and unpack what is missing of a dataset.

    Archives are kept in ``<root>/downloads``; one that already lies there, fetched by other means,
    is used.

    Args:
        dataset (Dataset): One of :data:`~mambaout_mm.data.catalogue.DATASETS`.
        root (Path): Folder that holds the datasets; made where it does not exist.

    Raises:
        UserError: If the server cannot be reached, a checksum does not match, the disk is too
            small, or a file cannot be written.
    """
    downloads, folder = root / 'downloads', root / dataset.folder
    todo = [
        archive
        for archive in dataset.archives
        if not all(entry.complete for entry in _entries([archive], folder))
    ]
    try:
        if todo:
            downloads.mkdir(parents=True, exist_ok=True)
            _check_space(dataset, todo, root)
        for archive in todo:
            _unpack(_fetch(archive, downloads), archive, folder)
    except OSError as error:
        raise UserError(
            f'stopped by "{error}"; the same command continues once that is solved'
        ) from error
    left = missing(dataset, root)
    if left:
        raise UserError('not found after unpacking:\n' + '\n'.join(left))
    print(f'{folder} is complete')
    if todo:
        print(f'the archives in {downloads} are no longer needed and may be deleted')
    print(f'next: {_train_command(dataset, root)}')


def _train_command(dataset: Dataset, root: Path) -> str:
    command = f'python tools/train.py {dataset.config}'
    if root == Path('data'):
        return command
    # The configs read data/<folder>, relative to where the training is started.
    source = shlex.quote(str((root / dataset.folder).resolve()))
    return f'mkdir -p data && ln -s {source} data/{dataset.folder} && {command}'


def _entries(archives: Iterable[Archive], folder: Path) -> list[Entry]:
    return [
        Entry(folder / path, _count(folder / path), expected)
        for archive in archives
        for path, expected in archive.contents.items()
    ]


def _count(path: Path) -> int:
    """Images in a folder, or 1 for a file that exists."""
    if not path.is_dir():
        return int(path.is_file())
    # By ending: a desktop may leave files of its own, an interrupted run a `.part` file.
    with os.scandir(path) as found:
        return sum(item.name.endswith(('.jpg', '.png')) for item in found)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _part(path: Path) -> Path:
    return path.with_name(path.name + '.part')


def _check_space(dataset: Dataset, todo: list[Archive], root: Path) -> None:
    """Raise UserError where the disk cannot take what is still to be downloaded and unpacked."""
    need = 0
    for archive in todo:
        target = root / 'downloads' / archive.name
        need += max(0, archive.size - max(_size(target), _size(_part(target))))
        found = _entries([archive], root / dataset.folder)
        absent = sum(max(0, entry.expected - entry.found) for entry in found)
        need += archive.unpacked * absent // sum(archive.contents.values())
    free = shutil.disk_usage(root).free
    print(f'{dataset.name}: needs {decimal(need)} on the disk, {decimal(free)} are free')
    if need > free:
        raise UserError(
            f'{dataset.name} needs {decimal(need)} below {root} and only {decimal(free)} are free; '
            'make room, or choose a folder on another disk with --root'
        )


def _fetch(archive: Archive, downloads: Path) -> Path:
    """Return the path of the verified archive, downloaded where it is not there yet."""
    target = downloads / archive.name
    part = _part(target)
    if _size(target) == archive.size:
        _verify(archive, target)
        return target
    if target.exists():
        # A download by other means that did not finish: its beginning is as good as our own.
        target.replace(part)
    _download(archive, part)
    _verify(archive, part)
    part.replace(target)
    return target


def _download(archive: Archive, part: Path) -> None:
    """Fill the part file up to the size of the archive, over as many connections as it takes."""
    with _progress(f'download {archive.name}', archive.size) as show:
        while (have := _size(part)) < archive.size:
            try:
                _receive(archive, part, show)
            except _NETWORK_ERRORS as error:
                # As long as a connection brings something the next one is worth trying: 19 GB
                # seldom arrive over a single one.
                if _size(part) > have:
                    continue
                target, reason = part.with_suffix(''), str(error).strip('<>')
                raise UserError(
                    f'cannot download {archive.url} ({reason}): run the same command again to '
                    f'continue, if need be after putting the file at {target} by other means'
                ) from error


def _receive(archive: Archive, part: Path, show: Callable[[int], None]) -> None:
    """Receive over one connection, from where the part file ends if the server can do that."""
    have = _size(part)
    # A name of our own: some servers refuse the one that urllib sends by default.
    request = urllib.request.Request(archive.url, headers={'User-Agent': 'mambaout_mm'})
    if have:
        request.add_header('Range', f'bytes={have}-')
    try:
        response = urllib.request.urlopen(request, timeout=_STALL_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            part.unlink()
            return
        raise
    with response:
        resumed = response.status == HTTPStatus.PARTIAL_CONTENT
        have = have if resumed else 0
        announced = response.headers.get('Content-Length')
        # Before the part file is touched: the answer may be the login page of a network.
        if announced is not None and have + int(announced) != archive.size:
            raise UserError(
                f'{archive.url} is announced with {have + int(announced)} bytes instead of '
                f'{archive.size}: the network answers something else, or the published file changed'
            )
        with part.open('ab' if resumed else 'wb') as file:
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                have += len(chunk)
                show(have)
    # http.client ends a read without an error when the connection closes too early.
    if have < archive.size:
        raise ConnectionError(f'the connection closed after {have} of {archive.size} bytes')


def _verify(archive: Archive, path: Path) -> None:
    """Compare the checksum; remove the file and raise UserError where it is another."""
    # Not for security: a machine in FIPS mode refuses MD5 otherwise.
    digest = hashlib.md5(usedforsecurity=False)
    done = 0
    with _progress(f'verify {archive.name}', _size(path)) as show, path.open('rb') as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            done += len(chunk)
            show(done)
    if digest.hexdigest() != archive.md5:
        path.unlink()
        raise UserError(
            f'{path} has MD5 {digest.hexdigest()} instead of {archive.md5} and was removed; run '
            'the same command again to download it anew'
        )


def _unpack(path: Path, archive: Archive, folder: Path) -> None:
    """Write the wanted members that are not there yet, each under a temporary name first."""
    try:
        with zipfile.ZipFile(path) as packed:
            members = packed.infolist()
            for member in members:
                # The Windows flavour also knows drives and backslashes, and reads POSIX names too.
                name = PureWindowsPath(member.filename)
                if name.anchor or '..' in name.parts:
                    raise UserError(
                        f'{path} was not unpacked: it holds {member.filename!r}, which would be '
                        f'written outside {folder}'
                    )
            wanted = [
                member
                for member in members
                if not member.is_dir()
                and any(PurePosixPath(member.filename).is_relative_to(p) for p in archive.contents)
            ]
            total = sum(member.file_size for member in wanted)
            done = 0
            with _progress(f'unpack {archive.name}', total) as show:
                for member in wanted:
                    target = folder / member.filename
                    if not target.is_file() or _size(target) != member.file_size:
                        target.parent.mkdir(parents=True, exist_ok=True)
                        with packed.open(member) as source, _part(target).open('wb') as file:
                            shutil.copyfileobj(source, file, _CHUNK)
                        _part(target).replace(target)
                    done += member.file_size
                    show(done)
    except zipfile.BadZipFile as error:
        raise UserError(f'cannot unpack {path}: {error}; delete it and run again') from error


@contextmanager
def _progress(words: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar with bytes, speed and remaining time; yields the function that moves it."""
    with progress.Progress(
        '{task.description}',
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
    ) as bar:
        task = bar.add_task(words, total=total)
        yield lambda completed: bar.update(task, completed=completed)
