"""The first table: what decides, a row for each backbone, columns from all sections."""

from .result import Comparison
from .sections import SECTIONS
from .tables import Notes, Table


def summary(comparison: Comparison) -> list[Table]:
    """One table; none if no section has a column for it."""
    notes = Notes()
    in_order = sorted(SECTIONS, key=lambda section: not section.early_in_summary)
    columns = [
        column for section in in_order for column in section.summary_columns(comparison, notes)
    ]
    mixers = comparison.rows.mixers
    if not columns or not mixers:
        return []
    lines = [
        (backbone, mixer, [column.cell_of(backbone) for column in columns])
        for backbone, mixer in mixers.items()
    ]
    return [Table('summary', [column.column for column in columns], lines, notes.texts)]
