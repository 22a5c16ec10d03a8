"""What a comparison computes and measures here, backbone by backbone, kept as it comes."""

import gc
import hashlib
import io
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from mambaout_mm.files import noted, write_bytes
from mambaout_mm.measure.failure import reason_of

from .catalogue import CONTROL, Entry, build_backbone
from .cost import cost_records, count_costs, known_costs
from .erf import ErfMap, erf_maps, erf_records
from .growth import (
    TIME_LIMIT,
    Series,
    check_parity,
    exponent_record,
    growth_records,
    whole_float32,
)
from .published import published_results
from .records import NAN, Record
from .sequence import sequence_records
from .store import Store

ERF_SIDE, ERF_IMAGES = 448, 2
LATE = dict(measured=TIME_LIMIT, computed=TIME_LIMIT.replace('measured', 'computed'))


@dataclass
class Work:
    """The sections of a comparison that need the networks.

    Attributes:
        entries (list[Entry]): What to compare; the control comes on top.
        device (str): 'cpu' or 'cuda'.
        dtype (str): Of the growth curves.
        sizes (list[tuple[int, int]]): Of the growth curves, ascending.
        whats (Sequence[str]): Of the growth curves: out of ``growth.WHATS``.
        deadline (float): When everything has to end, by ``time.perf_counter``.
        growth_deadline (float): When the growth curves have to end.
        checkpoints (dict[str, str]): Weights for the effective receptive field, by backbone.
        folder (Path, optional): For the maps of that; None keeps none.
        store (Store): For everything else.
        place (dict): Machine and versions, on which measurements depend.
        code (str): A digest of this package and the versions of others: results of another code
            are not taken up.
        count_anew (bool): Count the costs that are on record, too.
        progress (Callable): Told what is being done and the share of its section that is over.
        maps (list[ErfMap]): Filled by :meth:`erf`.
    """

    entries: list[Entry]
    device: str
    dtype: str
    sizes: list[tuple[int, int]]
    whats: tuple[str, ...]
    deadline: float
    growth_deadline: float
    checkpoints: dict[str, str]
    folder: Path | None
    store: Store
    place: dict[str, Any]
    code: str
    count_anew: bool
    progress: Callable[[str, float], object]
    maps: list[ErfMap] = field(default_factory=list)
    _longest: dict[str, float] = field(default_factory=dict)  # seconds, by section

    @property
    def with_control(self) -> list[Entry]:
        return [*self.entries, *([] if CONTROL in self.entries else [CONTROL])]

    def cost(self) -> list[Record]:
        """Parameters and MACs."""
        published = published_results()
        records = []
        # A check of half of the costs would be none
        deadline = math.inf if self.count_anew else self.deadline
        for entry in self.with_control:
            known = None if self.count_anew else known_costs(entry)
            if known:
                records += cost_records(entry, known, published)
            else:
                records += self._by_backbone(
                    'cost',
                    [entry],
                    lambda entry: list(cost_records(entry, count_costs(entry), published)),
                    deadline,
                )
        return records

    def sequence(self) -> list[Record]:
        """Tokens and theoretical receptive fields."""
        return self._by_backbone(
            'sequence',
            self.with_control,
            lambda entry: list(sequence_records(entry)),
            self.deadline,
        )

    def erf(self) -> list[Record]:
        """Effective receptive fields; their maps are kept beside the other results."""

        def measure(entry: Entry) -> list[Record]:
            maps = erf_maps(
                entry, ERF_SIDE, ERF_IMAGES, self.checkpoints.get(entry.name), self.device
            )
            self._save_maps(entry, maps)
            return list(erf_records(entry, maps))

        return self._by_backbone(
            'receptive field',
            self.with_control,
            measure,
            self.deadline,
            side=ERF_SIDE,
            images=ERF_IMAGES,
            place=self.place,
        )

    def _by_backbone(
        self,
        section: str,
        entries: list[Entry],
        compute: Callable[[Entry], list[Record]],
        deadline: float,
        **depends_on: Any,
    ) -> list[Record]:
        """Records of each backbone, from the store where it has them, while there is time."""
        records = []
        for number, entry in enumerate(entries):
            self.progress(f'{section}: {entry.name}', number / len(entries))
            key = dict(
                section=section,
                entry=entry._asdict(),
                code=self.code,
                weights=self._weights_of(entry) if section == 'receptive field' else None,
                **depends_on,
            )
            there = section != 'receptive field' or self._take_up_maps(entry)
            known = self.store.get(**key) if there else None
            if known is None:
                start = time.perf_counter()
                if start + self._longest.get(section, 0.0) > deadline:
                    records.append(missing(section, entry, LATE[origin_of(section)]))
                    continue
                try:
                    known = compute(entry)
                    self.store.put(known, **key)
                except Exception as error:  # one that fails is a row, not an end
                    known = [missing(section, entry, reason_of(error))]
                gc.collect()
                took = time.perf_counter() - start
                self._longest[section] = max(took, self._longest.get(section, 0.0))
            records += known
        return records

    def growth(self) -> list[Record]:
        """Time and memory at each size."""
        with whole_float32():
            return self._growth()

    def _growth(self) -> list[Record]:
        networks = self._networks()
        growing = {
            what: [Series(entry, model, wrong) for entry, model, wrong in networks]
            for what in self.whats
        }
        records = []
        for number, size in enumerate(self.sizes):
            for what in self.whats:
                done = number / len(self.sizes)
                self.progress(f'growth: {what} at {size[0]}x{size[1]}', done)
                records += self._at_size(growing[what], size, what)
        for what in self.whats:
            records += [exponent_record(one, what, self.dtype) for one in growing[what]]
        return records

    def _networks(self) -> list[tuple[Entry, nn.Module, str]]:
        """Every backbone on the device, and why it cannot be timed, or ''."""
        networks = []
        for number, entry in enumerate(self.with_control):
            self.progress(f'growth: checking {entry.name}', number / len(self.with_control))
            model, wrong = nn.Identity(), ''
            if time.perf_counter() > self.growth_deadline:
                networks.append((entry, model, TIME_LIMIT))
                continue
            try:
                model = build_backbone(entry)
                wrong = check_parity(model, self.device, self.dtype)
                model = model.to(self.device)
            except Exception as error:  # one that fails is a row, not an end
                wrong = reason_of(error)
            networks.append((entry, model, wrong))
        return networks

    def _at_size(self, series: list[Series], size: tuple[int, int], what: str) -> list[Record]:
        key = dict(
            section='growth',
            entries=[one.entry._asdict() for one in series],
            code=self.code,
            size=size,
            what=what,
            dtype=self.dtype,
            place=self.place,
        )
        records = self.store.get(**key)
        if records is not None:
            for one in series:
                one.restore(records)
            return records
        left = self.growth_deadline - time.perf_counter()
        records = list(growth_records(series, size, what, self.dtype, self.device, left))
        # What is missing may be had with more time, or memory that others use now.
        if not any(math.isnan(record.value) for record in records):
            self.store.put(records, **key)
        return records

    def _weights_of(self, entry: Entry) -> list[Any] | None:
        """What identifies the weights of :meth:`erf`; None for random ones."""
        checkpoint = self.checkpoints.get(entry.name)
        if checkpoint is None:
            return None
        file = Path(checkpoint)
        if not file.is_file():
            return [checkpoint]
        return [checkpoint, file.stat().st_mtime, file.stat().st_size]

    def _maps_of(self, entry: Entry) -> Path:
        name = ''.join(c if c.isalnum() or c in '-.' else '_' for c in entry.name)
        made_of = [entry, self._weights_of(entry), ERF_SIDE, ERF_IMAGES, self.place, self.code]
        digest = hashlib.sha256(repr(made_of).encode()).hexdigest()[:8]
        return (self.folder or Path()) / 'erf' / f'{name}-{digest}.npz'

    def _save_maps(self, entry: Entry, maps: list[ErfMap]) -> None:
        self.maps = [erf for erf in self.maps if erf.backbone != entry.name] + maps
        if self.folder is None:
            return
        content = io.BytesIO()
        np.savez_compressed(
            content,
            stages=[erf.stage for erf in maps],
            weights=maps[0].weights,
            size=maps[0].size,
            **{f'stage{erf.stage}': erf.values.astype(np.float16) for erf in maps},
        )
        with noted(self.store.unwritten):
            write_bytes(self._maps_of(entry), content.getvalue())

    def _take_up_maps(self, entry: Entry) -> bool:
        """Whether the maps of a backbone are on disk, and whole; then they are taken up."""
        path = self._maps_of(entry)
        if self.folder is None or not path.exists():
            return False
        try:
            maps = self._load_maps(entry, path)
        except Exception as error:  # of any kind: so many are raised for zip files that are damaged
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            self.store.remade.append(f'{path} cannot be read and is made anew: {reason}')
            return False
        self.maps += maps
        return True

    def _load_maps(self, entry: Entry, path: Path) -> list[ErfMap]:
        with path.open('rb') as file, np.load(file, allow_pickle=False) as data:
            size, weights = str(data['size']), str(data['weights'])
            maps = [
                ErfMap(entry.name, stage, size, weights, data[f'stage{stage}'].astype(np.float32))
                for stage in map(int, data['stages'])
            ]
        for erf in maps:
            if erf.values.shape != (ERF_SIDE, ERF_SIDE) or not np.isfinite(erf.values).all():
                raise ValueError(f'it has no map of stage {erf.stage}')
        return maps


def origin_of(section: str) -> str:
    """Where the numbers of a section come from."""
    return 'measured' if section in ('growth', 'receptive field') else 'computed'


def missing(section: str, entry: Entry, why: str) -> Record:
    """The row of a backbone that has no numbers in a section."""
    return Record(
        section=section,
        backbone=entry.name,
        mixer=entry.mixer,
        quantity='all',
        value=NAN,
        unit='',
        origin=origin_of(section),
        note=why,
    )
