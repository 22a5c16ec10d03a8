"""Tables on disk that are whole at any moment."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Write a text; what was there is replaced as a whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f'.{path.name}')
    unfinished.write_text(text, encoding='utf-8')
    unfinished.replace(path)


def write_csv(path: Path, rows: list[dict[str, Any]], columns: Sequence[str] = ()) -> None:
    """Write rows; what was there is replaced as a whole.

    Args:
        path (Path): The file.
        rows (list[dict[str, Any]]): All with the same keys.
        columns (Sequence[str]): The header. Defaults to the keys of the first row.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f'.{path.name}')
    with unfinished.open('w', newline='') as file:
        writer = csv.DictWriter(file, columns or rows[0])
        writer.writeheader()
        writer.writerows(rows)
    unfinished.replace(path)
