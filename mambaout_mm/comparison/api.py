"""The whole comparison: what is left to do, in order, within a budget of time."""

import hashlib
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from mmengine.logging import MMLogger

from mambaout_mm.checkpoints import checkpoints_are_data
from mambaout_mm.config_files import CONFIGS, PACKAGE
from mambaout_mm.errors import UserError
from mambaout_mm.files import check_folder
from mambaout_mm.measure.machine import machine
from mambaout_mm.runs import run_records
from mambaout_mm.trust import trusting
from mambaout_mm.version import __version__

from .catalogue import ENTRIES, Entry, entries_of
from .erf import ErfMap
from .growth import DTYPES, WHATS
from .published import published_records, published_results
from .records import to_frame
from .store import Store
from .work import Work

SECTIONS = ('cost', 'sequence', 'erf', 'growth', 'published', 'runs')
GROWTH_SIZES = tuple((side, side) for side in (224, 320, 448, 640, 896, 1280, 2048))
# What growth curves leave of the budget, at most this share and at most these seconds, to tables
# and pictures, and of the rest to receptive fields: twice what these take on two idle cores.
FOR_REPORT = (0.15, 45)
FOR_FIELDS = (0.3, 90)


class Comparison(NamedTuple):
    """What a comparison found.

    Attributes:
        frame (pd.DataFrame): All numbers, one to a row: :class:`.records.Record`.
        erf (list[ErfMap]): The effective receptive fields, for pictures.
        entries (list[Entry]): What was compared.
        machine (dict): Where, when and with what.
        reused (int): Results that an earlier run had left.
        remade (list[str]): Sentences on results that it had left and that could not be read.
        unwritten (list[str]): Sentences on what could not be written to ``out``.
    """

    frame: pd.DataFrame
    erf: list[ErfMap]
    entries: list[Entry]
    machine: dict[str, Any]
    reused: int
    remade: list[str]
    unwritten: list[str]


def compare(
    backbones: str | Sequence[str] = 'tiny',
    *,
    device: str | None = None,
    dtype: str = 'fp32',
    sizes: Sequence[tuple[int, int]] = GROWTH_SIZES,
    train: bool = False,
    budget: float = 300,
    only: Sequence[str] = SECTIONS,
    runs: Sequence[str | Path] = (),
    checkpoints: dict[str, str] | None = None,
    out: str | Path | None = None,
    trust: bool = False,
) -> pd.DataFrame:
    """Compare backbones on cost, speed, memory and accuracy.

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
        only (Sequence[str]): Which of 'cost', 'sequence', 'erf', 'growth', 'published', 'runs'.
            Defaults to all.
        runs (Sequence[str | Path]): Work directories of your own trainings. Defaults to none.
        checkpoints (dict[str, str], optional): Weights for the effective receptive field, by
            backbone: a path, a URL or a catalogue name. Defaults to None: random weights.
        out (str | Path, optional): A folder in which results are kept as they come; a comparison
            that was interrupted goes on from there. Defaults to None.
        trust (bool): Let checkpoints, predictions and configs in work directories run code as they
            are read. Defaults to False.

    Returns:
        pd.DataFrame: One number to a row, with the columns of :class:`.records.Record`. Numbers
        that are missing are NaN, and ``note`` says why. A warning says what could not be read from
        ``out`` or written to it.

    Raises:
        UserError: If an argument names nothing that exists, or ``out`` cannot be written to.

    Example:
        >>> from mambaout_mm.comparison import compare
        >>> frame = compare(['MambaOut-T', 'VMamba-T'], only=['sequence'])
        >>> long = (frame['quantity'] == 'tokens / 6D') & (frame['value'] > 1)
        >>> sorted(frame[long & (frame['size'] == '800x1280')]['setting'].unique())
        ['stage 1', 'stage 2', 'stage 3']
    """
    found = run_comparison(
        backbones, device, dtype, sizes, train, budget, only, runs, checkpoints, out, trust
    )
    for sentence in (*found.remade, *found.unwritten):
        warnings.warn(sentence, stacklevel=2)
    return found.frame


def run_comparison(
    backbones: str | Sequence[str] = 'tiny',
    device: str | None = None,
    dtype: str = 'fp32',
    sizes: Sequence[tuple[int, int]] = GROWTH_SIZES,
    train: bool = False,
    budget: float = 300,
    only: Sequence[str] = SECTIONS,
    runs: Sequence[str | Path] = (),
    checkpoints: dict[str, str] | None = None,
    out: str | Path | None = None,
    trust: bool = False,
    progress: Callable[[str, float], object] = lambda text, share: None,
    started: float | None = None,
    count_anew: bool = False,
) -> Comparison:
    """:func:`compare` with what pictures and a report need beside the frame.

    Args:
        backbones, device, dtype, sizes, train, budget, only, runs, checkpoints, out, trust: See
            :func:`compare`.
        progress (Callable): Called with what is being done and the share of its section that is
            over. Defaults to nothing.
        started (float, optional): When the budget began, by ``time.perf_counter``. Defaults to now.
        count_anew (bool): Count parameters and MACs that are on record, too, whatever time it
            takes. Defaults to False.

    Returns:
        Comparison: All of it.

    Raises:
        UserError: If an argument names nothing that exists.
    """
    started = time.perf_counter() if started is None else started
    entries = entries_of([backbones] if isinstance(backbones, str) else list(backbones))
    device = device or ('cuda' if torch.cuda.is_available() else 'cpu')
    written = {entry.name.lower(): entry.name for entry in entries}
    checkpoints = {written.get(k.lower(), k): v for k, v in (checkpoints or {}).items()}
    if bool(runs) != ('runs' in only) and (runs or list(only) == ['runs']):
        raise UserError(
            'runs are given, but the section runs is not among those asked for'
            if runs
            else 'no runs are given: name work directories of trainings'
        )
    for what, given, known in (
        ('dtype', [dtype], DTYPES),
        ('section', only, SECTIONS),
        ('device', [device], ('cpu', 'cuda')),
        ('backbone with a checkpoint', checkpoints, [entry.name for entry in entries]),
    ):
        for name in set(given) - set(known):
            raise UserError(f'{name!r} is no {what} here; there are {", ".join(known)}')
    folder = check_folder(out, '--out') if out else None
    described = machine(device) | dict(timm=version('timm'), mambaout_mm=__version__)
    left = budget - min(FOR_REPORT[0] * budget, FOR_REPORT[1])
    fields = min(FOR_FIELDS[0] * left, FOR_FIELDS[1]) if 'erf' in only else 0
    work = Work(
        entries=entries,
        device=device,
        dtype=dtype,
        sizes=sorted(dict.fromkeys(sizes), key=lambda size: size[0] * size[1]),
        whats=WHATS if train else WHATS[:1],
        deadline=started + left,
        growth_deadline=started + left - fields,
        checkpoints=checkpoints,
        folder=folder,
        store=Store(folder / 'results.jsonl' if folder else None),
        place=described,
        code=code_digest(),
        count_anew=count_anew,
        progress=progress,
    )
    # First, though shown last: a folder that is no run is told before minutes have passed.
    with trusting(trust):
        found = {'runs': run_records([Path(run) for run in runs]) if 'runs' in only else []}
    if 'published' in only:
        names = {entry.published: entry.name for entry in ENTRIES if entry.published}
        found['published'] = list(published_records(published_results(), names))
    with process_left_as_found(), trusting(trust), checkpoints_are_data():
        # The curves first: they are what a budget that does not suffice must not lose.
        for section in ('growth', 'cost', 'sequence', 'erf'):
            if section in only:
                found[section] = getattr(work, section)()
    records = [record for section in SECTIONS for record in found.get(section, [])]
    described |= dict(date=time.strftime('%Y-%m-%d'), dtype=dtype, budget_s=budget)
    if work.store.reused:
        described['taken_up'] = f'{work.store.reused} results from {work.store.oldest} on'
    store = work.store
    frame = to_frame(records)
    return Comparison(
        frame, work.maps, entries, described, store.reused, store.remade, store.unwritten
    )


@contextmanager
def process_left_as_found() -> Iterator[None]:
    """Give back random states, default scope and log level, which building networks changes."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel('ERROR')  # building a detector logs lines about its scopes
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
    finally:
        logger.setLevel(level)


def code_digest() -> str:
    """Of this package's files and configs, and the versions of what it computes with."""
    digest = hashlib.sha256()
    files = [*PACKAGE.rglob('*.py'), *PACKAGE.rglob('*.csv')]
    for path in sorted(files + list(CONFIGS.rglob('*.py') if CONFIGS else [])):
        digest.update(path.read_bytes())
    for package in ('torch', 'timm', 'mmengine', 'mmdet', 'mmseg'):
        digest.update(import_module(package).__version__.encode())
    return digest.hexdigest()[:12]
