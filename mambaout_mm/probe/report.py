"""The probe's table and its picture: how well marked curves are found, against their length."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from torch import nn

from mambaout_mm.comparison.pictures import COLOURS, add_legend, panels, save_picture
from mambaout_mm.files import write_csv
from mambaout_mm.measure.machine import machine
from mambaout_mm.study.statistics import holm, student

from .run import FIELD_PERCENT, Settings, data_of, run_probe, tests_of

CSV, EFFECTS, PICTURE = 'probe.csv', 'effects.csv', 'probe.png'
COLUMNS = ('network', 'reference', 'distance_px', 'seeds', 'effect', 'low', 'high', 'p', 'p_holm')


class Candidate(NamedTuple):
    """A network of a probe.

    Attributes:
        name (str): In tables, and as a folder.
        build (Callable): Gives the backbone with weights of the current seed.
        params, macs (int): What it costs at the probe's size.
        theoretical_px (float): Side of what can reach a pixel by the layers; infinite where that is
            the whole image, NaN where nobody has looked.
    """

    name: str
    build: Callable[[], nn.Module]
    params: int
    macs: int
    theoretical_px: float


def run_all(
    candidates: list[Candidate], settings: Settings, seeds: int, out: Path, device: str
) -> Iterator[list[dict[str, Any]]]:
    """Run every seed of every network and write the table after each.

    Seeds take turns outermost, so that an interrupted probe has something of every network.

    Yields:
        list[dict[str, Any]]: The rows of a run, one for each distance.
    """
    rows: list[dict[str, Any]] = []
    tests = tests_of(settings)
    for seed in range(seeds):
        data = data_of(settings, seed)
        for candidate in candidates:
            folder = out / candidate.name / f'seed{seed}'
            result = run_probe(candidate.build, settings, seed, folder, data, tests)
            new = [
                dict(
                    network=candidate.name,
                    seed=seed,
                    distance=distance,
                    distance_px=round(distance * settings.size),
                    iou=round(iou, 4),
                    macs_m=round(candidate.macs / 1e6, 1),
                    params_k=round(candidate.params / 1e3, 1),
                    theoretical_px=candidate.theoretical_px,
                    effective_px=result['effective_px'],
                    seconds=result['seconds'],
                    size=settings.size,
                    distractors=settings.distractors,
                    iterations=settings.iterations,
                    batch=settings.batch,
                    learning_rate=settings.learning_rate,
                    test_images=settings.test_images,
                )
                | machine(device)
                for distance, iou in zip(settings.distances, result['iou'], strict=True)
            ]
            rows.extend(new)
            write_csv(out / CSV, rows)
            yield new
    table = pd.DataFrame(rows)
    write_csv(out / EFFECTS, effects(table), COLUMNS)
    save_picture(draw(table), out / PICTURE)


def effects(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Each network's score above that of the first, with an interval over seeds.

    Seeds are paired: runs of one seed see the same images in the same order, and all are tested on
    the same ones. The intervals say how well the seeds agree, and nothing of other test images.
    ``p_holm`` is p after Holm's correction for all rows; the intervals are not corrected.

    Args:
        rows (pd.DataFrame): Of :func:`run_all`.

    Returns:
        list[dict[str, Any]]: A row for each network but the first, and each distance.
    """
    size = rows['size'].iloc[0]
    scores = rows.pivot(index=['distance', 'seed'], columns='network', values='iou')
    reference, *others = dict.fromkeys(rows['network'])
    found = []
    for name in others:
        for distance, of_seeds in (scores[name] - scores[reference]).groupby('distance'):
            mean, low, high, p = over_seeds(of_seeds.tolist())
            found.append(
                dict(
                    network=name,
                    reference=reference,
                    distance_px=round(distance * size),
                    seeds=len(of_seeds),
                    effect=round(mean, 4),
                    low=round(low, 4),
                    high=round(high, 4),
                    p=p,
                )
            )
    for row, p_holm in zip(found, holm([row['p'] for row in found]), strict=True):
        row['p_holm'] = p_holm
    return found


def over_seeds(differences: Sequence[float]) -> tuple[float, float, float, float]:
    """Mean of differences between runs of one seed, with Student's interval and p.

    Args:
        differences (Sequence[float]): One for each seed.

    Returns:
        tuple[float, float, float, float]: Mean, low and high of its 95 % interval, and the
        two-sided p; NaN for the last three of a single seed.
    """
    mean, count = float(np.mean(differences)), len(differences)
    if count < 2:
        return mean, math.nan, math.nan, math.nan
    error = float(np.std(differences, ddof=1)) / math.sqrt(count)
    return mean, *student(mean, error, count - 1)


def draw(rows: pd.DataFrame) -> Figure:
    """Score against distance, and how far each network sees.

    Args:
        rows (pd.DataFrame): Of :func:`run_all`.
    """
    figure, axes = panels(1, 2, 5.5, 4.5)
    score, reach = axes[0]
    names = list(dict.fromkeys(rows['network']))
    for i, name in enumerate(names):
        of = rows[rows['network'] == name].groupby('distance_px')['iou']
        mean, low, high = of.mean(), of.min(), of.max()
        colour = COLOURS[i % len(COLOURS)]
        score.plot(mean.index, mean, 'o-', color=colour, label=name)
        score.fill_between(mean.index, low, high, color=colour, alpha=0.15, linewidth=0)
    every = 1 / (1 + rows['distractors'].iloc[0])
    score.axhline(every, color='grey', linestyle=':')
    score.annotate(
        'every curve taken for the marked one',
        (rows['distance_px'].max(), every),
        xytext=(0, 3),
        textcoords='offset points',
        fontsize='x-small',
        color='grey',
        ha='right',
    )
    seeds = rows['seed'].nunique()
    score.set(
        xticks=sorted(rows['distance_px'].unique()),
        xlabel='length of the curves, pixels',
        ylabel='IoU of the marked curve',
        ylim=(0, 1),
        title=f'mean of {seeds} seeds; bands: lowest to highest' if seeds > 1 else 'one seed',
    )
    add_legend(score, 1)
    side = rows['size'].iloc[0]
    widest = side / 2
    for i, name in enumerate(names):
        of = rows[rows['network'] == name].drop_duplicates('seed')
        field, theory = of['effective_px'].mean(), of['theoretical_px'].iloc[0]
        reach.barh(i, field / 2, color=COLOURS[i % len(COLOURS)], alpha=0.8)
        if theory <= 2 * side:
            reach.plot([theory / 2], [i], 'k|', markersize=14)
            widest = max(widest, theory / 2)
    reach.set_yticks(range(len(names)), names)
    reach.invert_yaxis()
    reach.set(
        xlabel='pixels to each side',
        xlim=(0, 1.05 * widest),
        title=f'effective field ({FIELD_PERCENT} % of the gradient);\n'
        'stroke: theoretical field, none where it is far beyond the image',
    )  # fmt: skip
    for axis in (score, reach):
        axis.grid(alpha=0.3)
        axis.title.set_fontsize('small')
    first = rows.iloc[0]
    figure.suptitle(
        f'{side}x{side} pixels, 1 marked curve of {1 + first["distractors"]}, '
        f'{first["iterations"]} iterations of {first["batch"]} images',
        fontsize='medium',
    )
    return figure
