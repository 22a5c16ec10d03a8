"""Results on disk, a line each as they come, so that an interrupted comparison can go on."""

import json
import os
import time
from pathlib import Path
from typing import Any

from mambaout_mm.errors import UserError

from .records import Record


class Store:
    """Records by what they were made of.

    Args:
        path (Path, optional): A file of one JSON object to a line; made when the first result
            comes. Defaults to None: nothing is kept on disk.

    Attributes:
        reused (int): How many results were there already.
        oldest (str): When the oldest of those was made, as in '2026-11-21'; '' if there are none.

    Raises:
        UserError: If a line of the file cannot be read. The last one may be cut off: that result is
            made again.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.reused = 0
        self.oldest = ''
        self._dates: dict[str, str] = {}
        self._known: dict[str, list[Record]] = {}
        if path is None or not path.exists():
            return
        text = path.read_text()
        *lines, cut_off = text.split('\n')  # '' after a last line that is whole
        for number, line in enumerate(lines, start=1):
            try:
                result = json.loads(line)
                self._known[result['key']] = [Record(**fields) for fields in result['records']]
                self._dates[result['key']] = result['date']
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise UserError(
                    f'line {number} of {str(path)!r} is no result of this version ({error}); '
                    'delete the file to start anew'
                ) from error
        if cut_off:
            unfinished = path.with_name(f'.{path.name}')
            unfinished.write_text(text.removesuffix(cut_off))
            unfinished.replace(path)

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
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps(
            dict(
                key=key,
                date=time.strftime('%Y-%m-%d'),
                records=[record._asdict() for record in records],
            )
        )
        with self.path.open('a') as file:
            file.write(line + '\n')
            file.flush()
            os.fsync(file.fileno())


def _key(made_of: dict[str, Any]) -> str:
    return json.dumps(made_of, sort_keys=True, default=str)
