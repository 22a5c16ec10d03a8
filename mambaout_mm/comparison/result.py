"""What a comparison found, as tables, pictures and the page take it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd

from .catalogue import Network
from .tables import Rows


@dataclass
class Comparison:
    """What a comparison found.

    Attributes:
        frame (pd.DataFrame): All numbers, one to a row: :class:`.records.Record`.
        entries (Sequence[Network]): What was compared.
        machine (dict): Where, when and with what.
        extras (dict[str, list]): What a section found beside its numbers, by the section's name:
            the maps of 'receptive field'.
        reused (int): How many results an earlier run had left. Defaults to 0.
        remade (list[str]): Sentences on results that an earlier run had left and that could not be
            read.
        unwritten (list[str]): Sentences on what could not be written to the folder.
    """

    frame: pd.DataFrame
    entries: Sequence[Network]
    machine: dict[str, Any]
    extras: dict[str, list[Any]] = field(default_factory=dict)
    reused: int = 0
    remade: list[str] = field(default_factory=list)
    unwritten: list[str] = field(default_factory=list)

    @cached_property
    def rows(self) -> Rows:
        """The records of ``frame``, by section and key."""
        return Rows(self.frame)
