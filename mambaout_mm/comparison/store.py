"""Results on disk, a line each as they come, so that an interrupted comparison can go on."""

import hashlib
import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from mambaout_mm.errors import UserError
from mambaout_mm.files import noted, write_bytes

from .records import Record


class Store:
    """Records by what they were made of.

    A line that is not as it was written has another digest than it says; its result is made again.
    Such lines stay in a copy of the file beside it.

    Args:
        path (Path, optional): A file of one JSON object to a line; made when the first result
            comes. Defaults to None: nothing is kept on disk.

    Attributes:
        reused (int): How many results were there already.
        oldest (str): When the oldest of those was made, as in '2026-11-21'; '' if there are none.
        remade (list[str]): Sentences on results on disk that cannot be read.
        unwritten (list[str]): Sentences on what could not be written.

    Raises:
        UserError: If the file is there and cannot be read at all.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.reused = 0
        self.oldest = ''
        self.remade: list[str] = []
        self.unwritten: list[str] = []
        self._dates: dict[str, str] = {}
        self._known: dict[str, list[Record]] = {}
        if path is None or not path.exists():
            return
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UserError(f'{str(path)!r} cannot be read: {error.strerror or error}') from error
        *lines, cut_off = content.split(b'\n')  # b'' after a last line that is whole
        whole = [line for line in lines if self._take_up(line)]
        if len(whole) < len(lines):
            copy = path.with_name(f'{path.name}.damaged')
            broken = len(lines) - len(whole)
            self.remade.append(
                f'{broken} of {len(lines)} results in {path} cannot be read and are made anew; '
                f'they stay in {copy}'
            )
            with noted(self.unwritten):
                write_bytes(copy, content)
        # What a killed process left of a line would spoil the next one.
        if len(whole) < len(lines) or cut_off:
            with noted(self.unwritten):
                write_bytes(path, b''.join(line + b'\n' for line in whole))

    def _take_up(self, line: bytes) -> bool:
        try:
            result = json.loads(line)
            key, date, fields = result['key'], result['date'], result['records']
            if result['digest'] != _digest(key, date, fields):
                return False
            self._known[key] = [Record(**record) for record in fields]
        except (ValueError, KeyError, TypeError, RecursionError):
            return False
        self._dates[key] = date
        return True

    def get(self, **made_of: Any) -> list[Record] | None:
        """The records that were put under the same description; None if there are none."""
        key = _key(made_of)
        if key in self._dates:
            self.reused += 1
            self.oldest = min(filter(None, (self.oldest, self._dates[key])))
        return self._known.get(key)

    def put(self, records: list[Record], **made_of: Any) -> None:
        """Keep records under a description of what they depend on: backbone, size, machine."""
        key = _key(made_of)
        self._known[key] = records
        if self.path is None:
            return
        date, fields = time.strftime('%Y-%m-%d'), [vars(record) for record in records]
        line = dict(key=key, date=date, records=fields, digest=_digest(key, date, fields))
        try:
            self._append(json.dumps(line).encode() + b'\n')
        except OSError as error:
            self.unwritten = [
                f'results cannot be added to {str(self.path)!r}: {error.strerror or error}; those '
                'that are missing there are made again by the next comparison'
            ]

    def _append(self, line: bytes) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        before = self.path.stat().st_size if self.path.exists() else 0
        try:
            with self.path.open('ab') as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            with suppress(OSError):  # a part of a line, which would spoil the next one
                os.truncate(self.path, before)
            raise


def _digest(key: str, date: str, fields: list[dict]) -> str:
    return hashlib.sha256(json.dumps([key, date, fields]).encode()).hexdigest()[:16]


def _key(made_of: dict[str, Any]) -> str:
    return json.dumps(made_of, sort_keys=True, default=str)
