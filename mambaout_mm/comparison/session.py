"""What the sections of one comparison share: options, progress, earlier results, the time left."""

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mambaout_mm.measure.failure import reason_of
from mambaout_mm.measure.growth import too_late

from .catalogue import CONTROL, Network
from .options import Options
from .records import NAN, Record
from .store import Store

Progress = Callable[[str, float], object]


@dataclass
class Session:
    """One comparison while it runs.

    Attributes:
        options (Options): What to compare, and how.
        progress (Callable): Called with what is being done and the share of its section that is
            over.
        store (Store): Records of this comparison and of earlier ones.
        machine (dict): Machine and versions, on which measurements depend.
        code (str): A digest of this package and the versions of others: results of another code
            are not taken up.
        deadline (float): When everything has to end, by ``time.perf_counter``.
        early_deadline (float): When the growth curves, which come first, have to end: what is
            reserved for other sections is left then.
        extras (dict[str, list]): What a section found beside its records, by the section's name.
    """

    options: Options
    progress: Progress
    store: Store
    machine: dict[str, Any]
    code: str
    deadline: float
    early_deadline: float
    extras: dict[str, list[Any]] = field(default_factory=dict)
    _longest: dict[str, float] = field(default_factory=dict)  # seconds of a backbone, by section

    @property
    def entries(self) -> list[Network]:
        """The backbones, and the control."""
        entries = self.options.entries
        return entries if CONTROL in entries else [*entries, CONTROL]

    def by_backbone(
        self,
        section: str,
        entries: list[Network],
        compute: Callable[[Network], list[Record]],
        origin: str = 'computed',
        deadline: float | None = None,
        depends_on: Callable[[Network], dict[str, Any]] = lambda entry: {},
        can_take_up: Callable[[Network], bool] = lambda entry: True,
    ) -> list[Record]:
        """Records of each backbone, from the store where it has them, while there is time.

        A backbone that fails, or whose turn comes too late, gets a record that says so.

        Args:
            section (str): The name of the section.
            entries (list[Network]): The backbones.
            compute (Callable): Makes the records of one of them.
            origin (str): 'computed' or 'measured'. Defaults to 'computed'.
            deadline (float, optional): When it has to end. Defaults to the session's.
            depends_on (Callable): Gives what records depend on beside backbone and code. Defaults
                to nothing.
            can_take_up (Callable): Whether what belongs to records in the store is there, too.
                Defaults to always.
        """
        deadline = self.deadline if deadline is None else deadline
        records = []
        for number, entry in enumerate(entries):
            self.progress(f'{section}: {entry.name}', number / len(entries))
            made_of = dict(
                section=section, entry=entry._asdict(), code=self.code, **depends_on(entry)
            )
            found = self.store.get(**made_of) if can_take_up(entry) else None
            if found is None:
                start = time.perf_counter()
                longest = self._longest.get(section, 0.0)
                if start + longest > deadline:
                    records.append(missing(section, entry, origin, too_late(origin)))
                    continue
                try:
                    found = compute(entry)
                    self.store.put(found, **made_of)
                except Exception as error:  # one that fails is a row, not an end
                    found = [missing(section, entry, origin, reason_of(error))]
                gc.collect()
                self._longest[section] = max(longest, time.perf_counter() - start)
            records += found
        return records


def missing(section: str, entry: Network, origin: str, why: str) -> Record:
    """The record of a backbone that has no numbers in a section."""
    return Record(
        section=section,
        backbone=entry.name,
        mixer=entry.mixer,
        quantity='all',
        value=NAN,
        unit='',
        origin=origin,
        note=why,
    )
