"""The difference of two groups of runs on one metric, and whether it is more than noise."""

import itertools
import math
import statistics
from pathlib import Path
from typing import NamedTuple

from mambaout_mm.errors import UserError
from mambaout_mm.trust import is_trusted

from .bootstrap import Scorer, paired_bootstrap, read_scorers
from .reading import Run

PREDICTIONS = 'predictions.npz'
PICKLED = 'predictions.pkl'  # what was written before, and mmdet's tools read
Sides = tuple[list[Run], list[Run]]


class Difference(NamedTuple):
    """Mean of the first runs less that of the second, in percent.

    Attributes:
        value (float): The difference; NaN if a run has no final score.
        low, high (float): Its bootstrap interval; NaN without predictions.
        note (str): What the interval says, or why there is none.
    """

    value: float
    low: float
    high: float
    note: str


def difference(
    sides: Sides, quantity: str, scorers: dict[Path, dict[str, Scorer]], resamples: int, seed: int
) -> Difference:
    """The difference of two groups of runs.

    With ``predictions.npz`` in all their folders it is that of the predictions and has a bootstrap
    interval; else it is that of the final scores in the logs. Within ``trusting(True)`` a
    ``predictions.pkl`` does as well.

    Args:
        sides (Sides): The two groups.
        quantity (str): The metric, as in 'box AP'.
        scorers (dict[Path, dict[str, Scorer]]): Those that were read before, by folder and metric;
            updated.
        resamples (int): Of the bootstrap.
        seed (int): Of the bootstrap.
    """
    try:
        return _bootstrap(sides, quantity, scorers, resamples, seed)
    except UserError as error:
        note = f'no bootstrap: {error}'
    first, second = (statistics.fmean(run.final(quantity) for run in side) for side in sides)
    if math.isnan(first - second):
        note = f'one side has no final {quantity}; {note}'
    return Difference(first - second, math.nan, math.nan, note)


def _bootstrap(
    sides: Sides, quantity: str, scorers: dict[Path, dict[str, Scorer]], resamples: int, seed: int
) -> Difference:
    for run in itertools.chain(*sides):
        if run.folder not in scorers:
            scorers[run.folder] = _scorers(run)
        if quantity not in scorers[run.folder]:
            raise UserError(f'{run.folder / PREDICTIONS} has nothing for {quantity}')
    scored = [[scorers[run.folder][quantity] for run in side] for side in sides]
    drawn = paired_bootstrap(*scored, resamples, seed)
    more_than_noise = drawn.low > 0 or drawn.high < 0
    parts = [
        'more than the noise of the test images: the interval leaves out 0'
        if more_than_noise
        else 'not more than the noise of the test images: the interval contains 0',
        f'95 % over {resamples} draws of the {len(scored[0][0].images)} test images, the sign '
        f'flips in {drawn.flips:.1%}',
        'training noise is not in it',
        *(_other_score(run, scorers[run.folder], quantity) for side in sides for run in side),
    ]
    percent = (100 * number for number in (drawn.difference, drawn.low, drawn.high))
    return Difference(*percent, '; '.join(filter(None, parts)))


def _scorers(run: Run) -> dict[str, Scorer]:
    file, pickled = run.folder / PREDICTIONS, run.folder / PICKLED
    if not file.is_file() and pickled.is_file() and is_trusted():
        file = pickled
    if file.is_file():
        return read_scorers(run.cfg, file)
    last = run.folder / 'last_checkpoint'
    try:
        name = Path(last.read_text()).name if last.is_file() else ''
    except (OSError, ValueError):  # unreadable or binary: a hint is not worth an end
        name = ''
    checkpoint = run.folder / name if name else 'CHECKPOINT'
    old = (
        f' ({pickled} is there, but a pickle can run any code as it is read: say --trust to have '
        'it read)'
        if pickled.is_file()
        else ''
    )
    raise UserError(
        f'{file} is not there{old}; make it with `python tools/test.py {run.config} {checkpoint} '
        f'--out {file}`'
    )


def _other_score(run: Run, scorers: dict[str, Scorer], quantity: str) -> str:
    """A warning if the predictions are not those of the last validation."""
    score, final = 100 * scorers[quantity].total, run.final(quantity)
    if abs(score - final) < 0.06:  # mmdet logs one digit of the percentage
        return ''
    return f'the predictions of {run.name} score {score:.2f}, its last validation {final:.2f}'
