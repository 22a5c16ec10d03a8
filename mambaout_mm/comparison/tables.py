"""Tables on disk that are whole at any moment."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mambaout_mm.files import write_text


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
