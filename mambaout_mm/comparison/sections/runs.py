"""The user's own trainings: scores, means over seeds, differences and their noise."""

import itertools
import math
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mambaout_mm.errors import UserError
from mambaout_mm.runs.bootstrap import Scorer
from mambaout_mm.runs.difference import Difference, Sides, difference
from mambaout_mm.runs.reading import Run, read_run, type_of
from mambaout_mm.runs.recipe import group_by_recipe, recipe_differences

from ..markdown import rows_in_markdown
from ..records import NAN, Record
from ..result import Comparison
from ..section import Section
from ..session import Session
from ..tables import Cell, Row, plain_or_empty

WITH_DIFFERENCES = ('box AP', 'mask AP', 'mIoU')
MODELS = {'MaskRCNN': 'Mask R-CNN', 'UPerHead': 'UperNet'}


class RunsSection(Section):
    """The user's own trainings, as they come; without any the page says how to add them."""

    name = 'runs'
    heading = 'Your runs'
    origin = 'run'
    turn = 0  # a folder that is no run is told before minutes have passed
    template = """
{% if runs %}
<div class="scroll" tabindex="0" role="region" aria-label="Your runs">
<table id="own-runs">
<thead><tr>
{% for name in ('run', 'model', 'quantity', 'setting', 'value', 'unit', 'interval', 'note') %}
{{ heading(loop.index0, name, numeric=name == 'value') }}
{% endfor %}
</tr></thead>
<tbody>
{% for row, value in runs %}
<tr><th scope="row">{{ row.backbone }}</th><td>{{ row.model }}</td><td>{{ row.quantity }}</td>
<td>{{ row.setting }}</td>
{{ cell(value._replace(small='' if value.key else value.small), 'run', 'runs') }}
<td>{{ row.unit }}</td><td>{{ spread(row) }}</td><td>{{ row.note }}</td></tr>
{% endfor %}
</tbody>
</table>
</div>
{% else %}
<p>None given. <code>python tools/compare.py --runs work_dirs/a work_dirs/b</code> adds your own
trainings, their best and final results and the differences between them.</p>
{% endif %}
"""

    def records(self, session: Session) -> list[Record]:
        return run_records(session.options.runs)

    def shown(self, comparison: Comparison) -> bool:
        return True

    def context(self, comparison: Comparison) -> dict[str, Any]:
        return dict(runs=self._cells(comparison))

    def markdown(self, comparison: Comparison) -> list[str]:
        rows = [
            (
                row['backbone'],
                row['model'],
                row['quantity'],
                row['setting'],
                cell.all_text,
                row['note'],
            )
            for row, cell in self._cells(comparison)
        ]
        heads = ('run', 'model', 'metric', 'of', 'value', 'note')
        return [f'## {self.heading}', rows_in_markdown(heads, rows)] if rows else []

    def screen_lines(self, comparison: Comparison) -> list[str]:
        lines = []
        for row, cell in self._cells(comparison):
            score = f'{row["backbone"]}, {row["model"]}, {row["quantity"]}, {row["setting"]}'
            number = cell.all_text.replace('\n', ', ')
            lines.append(f'{score}: {number} ({row["note"]})')
        return lines

    def _cells(self, comparison: Comparison) -> list[tuple[Row, Cell]]:
        return [(row, plain_or_empty(row)) for row in comparison.rows.of(self.name)]


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
                found = difference(sides, quantity, scorers, resamples, seed)
                records.append(_difference_record(this, other, sides, quantity, found))
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
    return Record(
        section='runs',
        backbone=name,
        model=model,
        quantity=quantity,
        value=value,
        unit='%',
        origin='run',
        **columns,
    )


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


def _difference_record(
    this: str, other: str, sides: Sides, quantity: str, found: Difference
) -> Record:
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
        found.value,
        low=found.low,
        high=found.high,
        setting=f'difference to {other}',
        source=', '.join(str(run.folder) for side in sides for run in side),
        note=_joined(found.note, f'recipe, this / other: {" | ".join(recipe[:6] + more)}'),
    )
