"""What a section of a comparison gives. Each file in :mod:`.sections` fills this in."""

from collections.abc import Iterator
from typing import Any

from matplotlib.figure import Figure as Picture

from .figures import Figure
from .markdown import table_in_markdown
from .records import Record
from .result import Comparison
from .session import Session
from .tables import Notes, SummaryColumn, Table


class Section:
    """One section: its records, its tables, its figures on the page, its pictures.

    Attributes:
        name (str): In the column ``section`` of its records.
        flag (str): What ``--only`` calls it. Defaults to its name.
        heading (str): On the page.
        origin (str): 'computed' or 'measured': where its numbers come from. Defaults to
            'computed'.
        turn (int): When its records are made: sections with a lower number come first. Defaults
            to 2.
        reserved (tuple[float, float]): What the growth curves, which come first, leave of the
            budget for this section: a share, and at most so many seconds. Defaults to nothing.
        early_in_summary (bool): Whether its columns of the summary come before those of others.
            Defaults to False.
        beside_published (bool): Whether its numbers stand beside published ones, so that the lack
            of one has to be said. Defaults to False.
        template (str): The content of its part of the page, in Jinja's language; it may use the
            macros of ``macros.html``, ``tables``, ``figures`` and what :meth:`context` gives.
    """

    name = ''
    flag = ''
    heading = ''
    origin = 'computed'
    turn = 2
    reserved = (0.0, 0.0)
    early_in_summary = False
    beside_published = False
    template = ''

    def __init_subclass__(cls) -> None:
        cls.flag = cls.flag or cls.name

    @property
    def anchor(self) -> str:
        """The id of its heading on the page."""
        return f'{self.name.replace(" ", "-")}-section'

    def records(self, session: Session) -> list[Record]:
        """Make its records, within the time that the session has."""
        raise NotImplementedError

    def shown(self, comparison: Comparison) -> bool:
        """Whether it has a part of the page. Defaults to: if it has records."""
        return bool(comparison.rows.of(self.name))

    def tables(self, comparison: Comparison) -> list[Table]:
        """Its tables on the page and in ``table.md``; none without records."""
        return []

    def summary_columns(self, comparison: Comparison, notes: Notes) -> list[SummaryColumn]:
        """The columns that it adds to the summary, whose notes go to ``notes``."""
        return []

    def figures(self, comparison: Comparison) -> list[Figure]:
        """What plotly draws in its part of the page."""
        return []

    def context(self, comparison: Comparison) -> dict[str, Any]:
        """What its template needs beside ``tables`` and ``figures``."""
        return {}

    def pictures(self, comparison: Comparison) -> Iterator[tuple[str, Picture]]:
        """Its pictures with the names of their files, without '.png'; none without records."""
        yield from ()

    def markdown(self, comparison: Comparison) -> list[str]:
        """Its paragraphs of ``table.md``, the first of them a heading; none without records.

        Defaults to its tables.
        """
        paragraphs = []
        for table in self.tables(comparison):
            paragraphs += [f'## {self.name.capitalize()}', *table_in_markdown(table)]
        return paragraphs

    def screen_lines(self, comparison: Comparison) -> list[str]:
        """What the screen shows of it below the summary. Defaults to nothing."""
        return []

    def check(self, comparison: Comparison) -> list[str]:
        """A sentence for each number that should be another one, for ``--check``."""
        return []
