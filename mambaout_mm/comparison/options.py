"""The arguments of a comparison, documented and checked in one place."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from mambaout_mm.errors import UserError
from mambaout_mm.measure.growth import DTYPES, PASSES

from .catalogue import Network, entries_of

GROWTH_SIZES = tuple((side, side) for side in (224, 320, 448, 640, 896, 1280, 2048))


@dataclass(frozen=True)
class Options:
    """What to compare, and how. The fields hold what was asked for in one form, checked.

    Args:
        backbones (str | Sequence[str]): A preset ('tiny', 'small', 'base', 'mambas', 'all') or
            names, see :func:`.catalogue.entries_of`. Defaults to 'tiny': MambaOut-T, the same by
            timm, VMamba-T, ConvNeXt-T and Swin-T.
        device (str, optional): 'cpu' or 'cuda'. Defaults to CUDA where there is one.
        dtype (str): 'fp32', or 'bf16' for autocast, of the growth curves. Defaults to 'fp32'.
        sizes (Sequence[tuple[int, int]]): Heights and widths of the growth curves. Defaults to
            squares from 224 to 2048.
        train (bool): Time forward + backward, too, and count the bytes kept between them. Defaults
            to False.
        budget (float): Seconds for all of it; what would pass it is left out, and says so. Defaults
            to 300.
        only (Sequence[str], optional): Which sections: of 'cost', 'sequence', 'erf', 'growth',
            'published', 'runs'. Defaults to all.
        runs (Sequence[str | Path]): Work directories of your own trainings. Defaults to none.
        checkpoints (Mapping[str, str], optional): Weights for the effective receptive field, by
            backbone: a path, a URL or a catalogue name. Defaults to None: random weights.
        out (str | Path, optional): A folder in which results are kept as they come; a comparison
            that was interrupted goes on from there. Defaults to None.
        trust (bool): Let checkpoints, predictions and configs in work directories run code as they
            are read. Defaults to False.
        count_anew (bool): Count parameters and MACs that are on record, too, whatever time it
            takes. Defaults to False.

    Attributes:
        entries (list[Network]): The backbones.

    Raises:
        UserError: If an argument names nothing that exists.
    """

    backbones: str | Sequence[str] = 'tiny'
    device: str | None = None
    dtype: str = 'fp32'
    sizes: Sequence[tuple[int, int]] = GROWTH_SIZES
    train: bool = False
    budget: float = 300
    only: Sequence[str] | None = None
    runs: Sequence[str | Path] = ()
    checkpoints: Mapping[str, str] | None = None
    out: str | Path | None = None
    trust: bool = False
    count_anew: bool = False
    entries: list[Network] = field(init=False)

    def __post_init__(self) -> None:
        names = [self.backbones] if isinstance(self.backbones, str) else list(self.backbones)
        self._set(
            entries=entries_of(names),
            device=self.device or ('cuda' if torch.cuda.is_available() else 'cpu'),
            sizes=sorted(dict.fromkeys(self.sizes), key=math.prod),
            runs=[Path(run) for run in self.runs],
            out=Path(self.out) if self.out else None,
        )
        exact_names = {entry.name.lower(): entry.name for entry in self.entries}
        weights = dict(self.checkpoints or {})
        self._set(
            checkpoints={exact_names.get(name.lower(), name): weights[name] for name in weights}
        )
        if self.runs and self.only is not None and 'runs' not in self.only:
            raise UserError('runs are given, but the section runs is not among those asked for')
        if not self.runs and self.only is not None and list(self.only) == ['runs']:
            raise UserError('no runs are given: name work directories of trainings')
        check_names('dtype', [self.dtype], DTYPES)
        check_names('device', [self.device], ('cpu', 'cuda'))
        known = [entry.name for entry in self.entries]
        check_names('backbone with a checkpoint', self.checkpoints, known)

    def _set(self, **fields: object) -> None:
        for name, value in fields.items():
            object.__setattr__(self, name, value)  # the dataclass is frozen for all others

    @property
    def passes(self) -> tuple[str, ...]:
        """What the growth curves time: out of :data:`mambaout_mm.measure.growth.PASSES`."""
        return PASSES if self.train else PASSES[:1]


def check_names(what: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Check that each of some names is known.

    Args:
        what (str): What the message calls such a name, as in 'dtype'.
        given (Iterable[str]): The names.
        known (Iterable[str]): Those that there are.

    Raises:
        UserError: If one is not.
    """
    known = list(known)
    for name in given:
        if name not in known:
            raise UserError(f'{name!r} is no {what} here; there are {", ".join(known)}')
