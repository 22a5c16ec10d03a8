"""A whole comparison: the sections that were asked for, within a budget of time."""

import hashlib
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import version
from typing import Any

import pandas as pd
import torch
from mmengine.logging import MMLogger

from mambaout_mm.checkpoints import checkpoints_are_data
from mambaout_mm.config_files import CONFIGS, PACKAGE
from mambaout_mm.files import check_folder
from mambaout_mm.measure.machine import machine
from mambaout_mm.ops import native
from mambaout_mm.ops.products import linear_layers_by_onednn
from mambaout_mm.trust import trusting
from mambaout_mm.version import __version__

from .options import Options
from .records import to_frame
from .result import Comparison
from .section import Section
from .sections import chosen_sections
from .session import Progress, Session
from .store import Store

# What is left of the budget for tables and pictures: this share, and at most these seconds: twice
# what they take on two idle cores.
FOR_REPORT = (0.15, 45)


def compare(backbones: str | Sequence[str] = 'tiny', **options: Any) -> pd.DataFrame:
    """Compare backbones on cost, speed, memory and accuracy.

    Args:
        backbones (str | Sequence[str]): A preset ('tiny', 'small', 'base', 'mambas', 'all') or
            names, see :func:`.catalogue.entries_of`. Defaults to 'tiny'.
        **options: ``device``, ``dtype``, ``sizes``, ``train``, ``budget``, ``only``, ``runs``,
            ``checkpoints``, ``out``, ``trust``, ``count_anew``: see :class:`.options.Options`.

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
    comparison = run_comparison(Options(backbones, **options))
    for sentence in (*comparison.remade, *comparison.unwritten):
        warnings.warn(sentence, stacklevel=2)
    return comparison.frame


def run_comparison(
    options: Options,
    progress: Progress = lambda text, share: None,
    started: float | None = None,
) -> Comparison:
    """:func:`compare` with what pictures and the page need beside the frame.

    Args:
        options (Options): What to compare, and how.
        progress (Callable): Called with what is being done and the share of its section that is
            over. Defaults to nothing.
        started (float, optional): When the budget began, by ``time.perf_counter``. Defaults to now.

    Returns:
        Comparison: All of it.

    Raises:
        UserError: If a section or a run does not exist, or the folder cannot be written to.
    """
    started = time.perf_counter() if started is None else started
    sections = chosen_sections(options.only)
    session = start_session(options, sections, progress, started)
    records = {}
    with (
        process_left_as_found(),
        trusting(options.trust),
        checkpoints_are_data(),
        linear_layers_by_onednn(),
    ):
        for section in sorted(sections, key=lambda section: section.turn):
            records[section] = section.records(session)
    described = session.machine | dict(
        date=time.strftime('%Y-%m-%d'), dtype=options.dtype, budget_s=options.budget
    )
    store = session.store
    if store.reused:
        described['taken_up'] = f'{store.reused} results from {store.oldest} on'
    return Comparison(
        frame=to_frame(record for section in sections for record in records[section]),
        entries=options.entries,
        machine=described,
        extras=session.extras,
        reused=store.reused,
        remade=store.remade,
        unwritten=store.unwritten,
    )


def start_session(
    options: Options, sections: Sequence[Section], progress: Progress, started: float
) -> Session:
    """A session whose time is divided among the sections, over the results of earlier ones."""
    folder = check_folder(options.out, '--out') if options.out else None
    share, at_most = FOR_REPORT
    seconds = options.budget - min(share * options.budget, at_most)
    reserved = sum(min(section.reserved[0] * seconds, section.reserved[1]) for section in sections)
    return Session(
        options=options,
        progress=progress,
        store=Store(folder / 'results.jsonl' if folder else None),
        machine=machine(options.device) | dict(timm=version('timm'), mambaout_mm=__version__),
        code=code_digest(),
        deadline=started + seconds,
        early_deadline=started + seconds - reserved,
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
    """Of this package's files and configs, and the versions of what it computes with.

    C files are those of a source tree, libraries those of a wheel, which has no C files.
    """
    digest = hashlib.sha256(native.description().encode())
    files = [path for end in ('py', 'csv', 'c', 'h', 'so') for path in PACKAGE.rglob(f'*.{end}')]
    for path in sorted(files + list(CONFIGS.rglob('*.py') if CONFIGS else [])):
        digest.update(path.read_bytes())
    for package in ('torch', 'timm', 'mmengine', 'mmdet', 'mmseg'):
        digest.update(import_module(package).__version__.encode())
    return digest.hexdigest()[:12]
