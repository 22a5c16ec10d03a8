"""A study's answer: tables, the page, and what to quote."""

import base64
import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from mambaout_mm.comparison.page import environment, source
from mambaout_mm.comparison.pictures import COLOURS, add_legend, panels
from mambaout_mm.errors import UserError
from mambaout_mm.files import write_csv, write_text
from mambaout_mm.runs.bootstrap import Scorer, read_scorers
from mambaout_mm.runs.reading import Run, read_run

from .examples import Example, draw_examples, largest_differences
from .execute import reason_of_failure
from .plan import Task
from .statistics import Effect, effects

SCORES, EFFECTS, PAGE = 'study.csv', 'effects.csv', 'report.html'
EXAMPLES = 6  # images on which each side is better, for each candidate
MOST_BYTES = 8_000_000  # of pictures on a page
CLASSES_SHOWN = 10
SIZES = ('small', 'medium', 'large')
HERE = Path(__file__).parent


class Where(NamedTuple):
    """Scores of a part of the test set, by class or by size of the objects.

    Attributes:
        part (str): Its name.
        candidate, reference (float): Means over the seeds, in percent.
    """

    part: str
    candidate: float
    reference: float


class Shown(NamedTuple):
    """What the page shows of a candidate beside its effect.

    Attributes:
        name (str): Of the candidate.
        classes, sizes (list[Where]): Where the difference sits, largest first.
        examples (list[Example]): Images on which it differs most.
    """

    name: str
    classes: list[Where]
    sizes: list[Where]
    examples: list[Example]


class Study(NamedTuple):
    """All that was found.

    Attributes:
        tasks (list[Task]): All that was planned.
        states (dict[str, str]): By the task's name: 'done', 'not started', 'unfinished', or
            'failed: ' and the reason.
        runs (dict[str, Run]): Of tasks that have a log, by name.
        scorers (dict[str, dict[str, dict[int, Scorer]]]): By metric, candidate and seed.
        effects (list[Effect]): Against the first candidate.
    """

    tasks: list[Task]
    states: dict[str, str]
    runs: dict[str, Run]
    scorers: dict[str, dict[str, dict[int, Scorer]]]
    effects: list[Effect]

    @property
    def reference(self) -> str:
        """The candidate that the others are held against."""
        return self.tasks[0].candidate.name

    @property
    def names(self) -> list[str]:
        """Of the candidates."""
        return list(dict.fromkeys(task.candidate.name for task in self.tasks))


def read_study(tasks: list[Task]) -> Study:
    """Scores of all tasks that are done, and the effects.

    Raises:
        UserError: If predictions cannot be scored.
    """
    states, runs = {}, {}
    scorers: dict[str, dict[str, dict[int, Scorer]]] = {}
    for task in tasks:
        reason = reason_of_failure(task)
        try:
            runs[task.name] = read_run(task.folder, task.name)
        except UserError:
            states[task.name] = f'failed: {reason}' if reason else 'not started'
            continue
        if not task.predictions.exists():
            states[task.name] = f'failed: {reason}' if reason else 'unfinished'
            continue
        states[task.name] = 'done'
        for metric, scorer in read_scorers(runs[task.name].cfg, task.predictions).items():
            by_name = scorers.setdefault(metric, {})
            by_name.setdefault(task.candidate.name, {})[task.seed] = scorer
    reference = tasks[0].candidate.name
    found = [
        effect
        for metric, by_name in scorers.items()
        if reference in by_name
        for effect in effects(metric, by_name, reference)
    ]
    return Study(tasks, states, runs, scorers, found)


def write_study(study: Study, title: str, out: Path) -> list[str]:
    """Write both tables and the page.

    Returns:
        list[str]: The sentences of the answer.
    """
    write_csv(out / SCORES, score_rows(study))
    write_csv(out / EFFECTS, [effect._asdict() for effect in study.effects], Effect._fields)
    write_text(out / PAGE, render(study, title))
    return [effect.sentence for effect in study.effects]


def score_rows(study: Study) -> list[dict[str, Any]]:
    """A row for each task and metric; tasks without a score have a row with their state."""
    rows = []
    for task in study.tasks:
        common = dict(candidate=task.candidate.name, seed=task.seed, state=study.states[task.name])
        metrics = [
            (metric, by_name[task.candidate.name][task.seed])
            for metric, by_name in study.scorers.items()
            if task.seed in by_name.get(task.candidate.name, {})
        ]
        for metric, scorer in metrics:
            rows.append(common | dict(metric=metric, score=round(100 * scorer.total, 3)))
        if not metrics:
            rows.append(common | dict(metric='', score=''))
    return rows


def where_it_sits(study: Study, name: str, metric: str) -> tuple[list[Where], list[Where]]:
    """Classes and sizes of objects with the largest differences to the reference."""
    by_name = study.scorers[metric]
    seeds = sorted(by_name[name].keys() & by_name[study.reference].keys())
    sides = [
        np.mean([by_name[side][seed].of_classes() for seed in seeds], axis=0)
        for side in (name, study.reference)
    ]
    names = by_name[name][seeds[0]].class_names
    classes = [
        Where(part, 100 * mine, 100 * theirs)
        for part, mine, theirs in zip(names, *sides, strict=True)
        if mine == mine and theirs == theirs
    ]
    classes.sort(key=lambda where: -abs(where.candidate - where.reference))
    sizes = []
    for size in SIZES if metric.endswith('AP') else ():
        scores = [
            [read_scorers(study.runs[t.name].cfg, t.predictions, size)[metric].total
             for t in study.tasks if t.candidate.name == side and t.seed in seeds]
            for side in (name, study.reference)
        ]  # fmt: skip
        mine, theirs = (100 * float(np.mean(values)) for values in scores)
        if mine == mine and theirs == theirs:
            sizes.append(Where(f'{size} objects', mine, theirs))
    return classes[:CLASSES_SHOWN], sizes


def shown_of(study: Study) -> list[Shown]:
    """Details of each candidate on the chief metric, within the bound of bytes."""
    if not study.scorers:
        return []
    metric = next(iter(study.scorers))
    by_name = study.scorers[metric]
    shown, room = [], MOST_BYTES
    for name in [effect.candidate for effect in study.effects if effect.metric == metric]:
        classes, sizes = where_it_sits(study, name, metric)
        chosen = largest_differences(by_name[name], by_name[study.reference], EXAMPLES)
        seed = min(by_name[name].keys() & by_name[study.reference].keys())
        tasks = {t.candidate.name: t for t in study.tasks if t.seed == seed}
        scorer = by_name[name][seed]
        files = {side: tasks[side].predictions for side in (name, study.reference)}
        cfg = study.runs[tasks[name].name].cfg
        kept = []
        for example in draw_examples(cfg, files, scorer.images, chosen):
            room -= sum(map(len, example.panels.values()))
            if room > 0:
                kept.append(example)
        shown.append(Shown(name, classes, sizes, kept))
    return shown


def draw_curves(study: Study) -> Figure | None:
    """The chief metric's validations while training: mean and extremes of the seeds."""
    metrics = [m for run in study.runs.values() for m in run.quantities if run.validations]
    if not metrics:
        return None
    figure, axes = panels(1, 1, 7, 4)
    axis = axes[0, 0]
    for i, name in enumerate(study.names):
        runs = [study.runs[t.name] for t in study.tasks
                if t.candidate.name == name and t.name in study.runs]  # fmt: skip
        points: dict[int, list[float]] = {}
        for run in runs:
            for at, scores in run.validations.items():
                points.setdefault(at, []).append(scores.get(metrics[0], np.nan))
        at = sorted(points)
        if not at:
            continue
        colour = COLOURS[i % len(COLOURS)]
        axis.plot(at, [np.mean(points[x]) for x in at], 'o-', color=colour, label=name)
        axis.fill_between(
            at,
            [min(points[x]) for x in at],
            [max(points[x]) for x in at],
            color=colour,
            alpha=0.15,
            linewidth=0,
        )
    unit = next(iter(study.runs.values())).unit
    axis.set(xlabel=unit, ylabel=metrics[0], title='mean of the seeds; bands: lowest to highest')
    axis.title.set_fontsize('small')
    axis.grid(alpha=0.3)
    add_legend(axis, 1)
    return figure


def render(study: Study, title: str) -> str:
    """The page: one file that needs nothing else."""
    curves = draw_curves(study)
    return (
        environment(HERE)
        .get_template('report.html')
        .render(
            title=title,
            css=source('page.css'),
            study=study,
            candidates=[_summary(study, name) for name in study.names],
            metrics=list(study.scorers),
            states=[(n, s) for n, s in study.states.items() if s != 'done'],
            curves=_data_url(_png(curves), 'png') if curves else '',
            shown=shown_of(study),
            jpeg=lambda content: _data_url(content, 'jpeg'),
        )
    )


def _summary(study: Study, name: str) -> dict[str, Any]:
    """A candidate's line in the table of scores."""
    task = next(task for task in study.tasks if task.candidate.name == name)
    scores = {}
    for metric, by_name in study.scorers.items():
        values = [100 * scorer.total for scorer in by_name.get(name, {}).values()]
        scores[metric] = (
            f'{np.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})' if values else '-'
        )
    done = sum(study.states[t.name] == 'done' for t in study.tasks if t.candidate.name == name)
    planned = sum(t.candidate.name == name for t in study.tasks)
    return dict(name=name, note=task.candidate.note, seeds=f'{done} of {planned}', scores=scores)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110, format='png')
    return buffer.getvalue()


def _data_url(content: bytes, kind: str) -> Markup:
    return Markup(f'data:image/{kind};base64,{base64.b64encode(content).decode()}')
