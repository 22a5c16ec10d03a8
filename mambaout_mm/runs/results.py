"""The user's own trainings as records: scores, means over seeds, differences and their noise."""

import itertools
import math
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mambaout_mm.comparison.records import NAN, Record
from mambaout_mm.errors import UserError
from mambaout_mm.trust import is_trusted

from .bootstrap import Scorer, paired_bootstrap, read_scorers
from .reading import Run, read_run, type_of
from .recipe import group_by_recipe, recipe_differences

WITH_DIFFERENCES = ('box AP', 'mask AP', 'mIoU')
MODELS = {'MaskRCNN': 'Mask R-CNN', 'UPerHead': 'UperNet'}
PREDICTIONS = 'predictions.npz'
PICKLED = 'predictions.pkl'  # what was written before, and mmdet's tools read


def run_records(folders: list[Path], resamples: int = 1000, seed: int = 0) -> list[Record]:
    """The scores of trained runs, their means over seeds, and their differences.

    Runs that differ in the seed alone are one group. The differences are of each group to those
    named before it; with ``predictions.npz`` (``tools/test.py --out``) in all their folders, they
    come with a bootstrap interval. Within ``trusting(True)`` a ``predictions.pkl`` does as well.

    Args:
        folders (list[Path]): Work dirs.
        resamples (int): Of the bootstrap. Defaults to 1000.
        seed (int): Of the bootstrap. Defaults to 0.

    Raises:
        UserError: If a folder is no run, or is given twice.
    """
    runs = [read_run(f, name) for f, name in zip(folders, _names(folders), strict=True)]
    try:
        return _records_of(runs, resamples, seed)
    except UserError:
        raise
    except Exception as error:  # of any kind: a config of others may hold anything
        reason = ' '.join(f'{type(error).__name__}: {error}'.split())
        raise UserError(
            f'the configs of {", ".join(str(run.config) for run in runs)} cannot be compared: '
            f'{reason}'
        ) from error


def _records_of(runs: list[Run], resamples: int, seed: int) -> list[Record]:
    groups = group_by_recipe(runs)
    scorers: dict[Path, dict[str, Scorer]] = {}
    records = []
    for name, group in groups.items():
        records += [r for run in group for r in _own_records(run, alone=len(group) == 1)]
        records += _mean_records(name, group)
    for other, this in itertools.combinations(groups, 2):
        for quantity in WITH_DIFFERENCES:
            sides = groups[this], groups[other]
            if all(quantity in run.quantities for side in sides for run in side):
                drawn = _bootstrap(sides, quantity, scorers, resamples, seed)
                records.append(_difference(this, other, sides, quantity, drawn))
    return records


def _names(folders: list[Path]) -> list[str]:
    """The ends of the paths, as short as they can be and differ."""
    parts = [folder.resolve().parts for folder in folders]
    for folder, path in zip(folders, parts, strict=True):
        if parts.count(path) > 1:
            raise UserError(f'--runs names {str(folder)!r} twice; name each run once')
    longest = max(map(len, parts), default=1)
    depths = (['/'.join(path[-n:]) for path in parts] for n in range(1, longest + 1))
    return next((names for names in depths if len(set(names)) == len(names)), [])


def _record(name: str, run: Run, quantity: str, value: float, **columns: Any) -> Record:
    cfg_model = run.cfg.get('model') or {}
    kinds = [type_of(cfg_model), type_of(cfg_model.get('decode_head'))]
    model = next((MODELS[kind] for kind in kinds if kind in MODELS), kinds[0])
    columns = {'source': str(run.folder), **columns}
    return Record('runs', name, quantity, value, '%', 'run', model=model, **columns)


def _stopped(run: Run) -> str:
    if not run.planned:
        return 'the config does not say how long training was to be'
    ended = f'stopped at {run.unit} {run.done} of {run.planned}'
    return '' if run.done >= run.planned else ended


def _joined(*notes: str) -> str:
    return '; '.join(filter(None, notes))


def _own_records(run: Run, alone: bool) -> Iterator[Record]:
    for quantity in run.quantities:
        for setting, at in (('final', max(run.validations, default=None)), ('best', run.best)):
            value = run.validations.get(at, {}).get(quantity, NAN)
            if not run.validations:
                when = 'the log has no validation'
            elif math.isnan(value):
                when = f'the log has no number for {quantity} here'
            elif len(run.validations) == 1:
                when = f'{run.unit} {at}, the only validation'
            elif setting == 'final':
                when = f'{run.unit} {at}'
            else:
                chief = run.quantities[0]
                when = f'{run.unit} {at}, chosen by {chief} on the validation set itself'
            spread = 'one seed: no spread' if alone and setting == 'final' else ''
            note = _joined(when, _stopped(run), spread, run.note)
            yield _record(run.name, run, quantity, value, setting=setting, note=note)


def _mean_records(name: str, group: list[Run]) -> Iterator[Record]:
    if len(group) == 1:
        return
    seeds = {run.seed for run in group if run.seed is not None}
    different = len(seeds) == len(group)
    setting = f'mean of {len(group)} {"seeds" if different else "runs"}'
    doubt = '' if different else 'the logs do not show as many different seeds'
    for quantity in group[0].quantities:
        values = [run.final(quantity) for run in group]
        missing = [run.name for run, v in zip(group, values, strict=True) if math.isnan(v)]
        stopped = [f'{run.name} {_stopped(run)}' for run in group if _stopped(run)]
        columns = dict(setting=setting, source=', '.join(str(run.folder) for run in group))
        if missing:
            note = f'no final {quantity} of {", ".join(missing)}'
            yield _record(name, group[0], quantity, NAN, note=note, **columns)
            continue
        listed = ', '.join(f'{v:.2f}' for v in values)
        note = f'final: {listed}; standard deviation {statistics.stdev(values):.2f}; low and high'
        columns.update(low=min(values), high=max(values))
        columns['note'] = _joined(f'{note} are the extremes', doubt, *stopped)
        yield _record(name, group[0], quantity, statistics.fmean(values), **columns)


def _bootstrap(
    sides: tuple[list[Run], list[Run]],
    quantity: str,
    scorers: dict[Path, dict[str, Scorer]],
    resamples: int,
    seed: int,
) -> tuple[dict[str, float], str]:
    """Difference and interval in percent, and what they mean; nothing, and why."""
    try:
        for run in itertools.chain(*sides):
            if run.folder not in scorers:
                scorers[run.folder] = _scorers(run)
            if quantity not in scorers[run.folder]:
                raise UserError(f'{run.folder / PREDICTIONS} has nothing for {quantity}')
        scored = [[scorers[run.folder][quantity] for run in side] for side in sides]
        drawn = paired_bootstrap(*scored, resamples, seed)
    except UserError as error:
        return {}, f'no bootstrap: {error}'
    certain = drawn.low > 0 or drawn.high < 0
    verdict = 'more than the noise of the test images: the interval leaves out 0'
    note = _joined(
        verdict
        if certain
        else 'not more than the noise of the test images: the interval contains 0',
        f'95 % over {resamples} draws of the {len(scored[0][0].images)} test images, the sign '
        f'flips in {drawn.flips:.1%}',
        'training noise is not in it',
        *(_other_score(run, scorers[run.folder], quantity) for side in sides for run in side),
    )
    numbers = dict(value=drawn.difference, low=drawn.low, high=drawn.high)
    return {key: 100 * number for key, number in numbers.items()}, note


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


def _difference(
    this: str,
    other: str,
    sides: tuple[list[Run], list[Run]],
    quantity: str,
    drawn: tuple[dict[str, float], str],
) -> Record:
    numbers, note = drawn
    if not numbers:
        mine, theirs = ([run.final(quantity) for run in side] for side in sides)
        numbers = dict(value=statistics.fmean(mine) - statistics.fmean(theirs))
        if math.isnan(numbers['value']):
            note = f'one side has no final {quantity}; {note}'
    differences = recipe_differences([side[0] for side in sides])
    recipe = [
        f'{d.where or d.aspect} {d.values[0]} / {d.values[1]}'
        for d in differences
        if d.aspect != 'seed'
    ]
    more = [f'{len(recipe) - 6} more'] if len(recipe) > 6 else []
    return _record(
        this,
        sides[0][0],
        quantity,
        **numbers,
        setting=f'difference to {other}',
        source=', '.join(str(run.folder) for side in sides for run in side),
        note=_joined(note, f'recipe, this / other: {" | ".join(recipe[:6] + more)}'),
    )
