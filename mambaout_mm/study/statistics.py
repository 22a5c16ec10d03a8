"""What the scores of a study say: effects with intervals, and sentences.

Two things are chance in a study: which seeds were trained, and which images were tested on. The
bootstrap draws both: seeds with replacement, and in the same draw test images with replacement, the
same ones for all candidates. Runs of two candidates with one seed have the same data order, so
seeds are drawn in pairs.

The mean of S seeds drawn with replacement from S scatters by sqrt((S - 1) / S) of what the mean of
S new seeds would: its deviations are stretched by the inverse (Davison and Hinkley 1997, Bootstrap
Methods and their Application, section 3.2).

Three seeds do not show well how far seeds scatter, and percentiles of the bootstrap do not know it:
of no effect they found one in 18 of 100 studies where seeds are all the noise. So the bootstrap
gives the standard error, and Student's distribution the interval and p, with the degrees of freedom
by Satterthwaite (1946, Biometrics Bulletin 2): S - 1 where seeds are all the noise, many where the
test images are. Then it is 5 of 100.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from mambaout_mm.errors import UserError
from mambaout_mm.runs.bootstrap import Scorer

RESAMPLES = 2000
LEVEL = 0.05
MOST_SEEDS = 1000


class Effect(NamedTuple):
    """How far a candidate's score is above that of the reference, in percent points.

    Attributes:
        candidate, reference (str): Names.
        metric (str): 'box AP', 'mask AP' or 'mIoU'.
        value (float): Mean over the seeds on all test images.
        low, high (float): 95 % interval over seeds and test images.
        p (float): Two-sided.
        p_holm (float): The same after Holm's correction for several candidates.
        seeds (int): Pairs of runs.
        from_seeds, from_images (float): Standard deviation of the mean that each causes.
        seeds_needed (int | None): How many would settle an effect of this size; None if the test
            images alone scatter too much for it.
    """

    candidate: str
    reference: str
    metric: str
    value: float
    low: float
    high: float
    p: float
    p_holm: float
    seeds: int
    from_seeds: float
    from_images: float
    seeds_needed: int | None

    @property
    def settled(self) -> bool:
        """Whether it is more than noise, after the correction."""
        return self.p_holm < LEVEL

    @property
    def sentence(self) -> str:
        """To be quoted."""
        better = 'better' if self.value > 0 else 'worse'
        interval = f'{self.value:+.2f} {self.metric}, 95 % from {self.low:+.2f} to {self.high:+.2f}'
        base = f'{interval}; {self.seeds} seeds'
        if self.seeds < 2:
            return (
                f'Not settled: {self.candidate} against {self.reference}, {interval} over test '
                'images, but a single seed says nothing of the noise of training.'
            )
        if self.settled:
            return (
                f'{self.candidate} is {better} than {self.reference} here '
                f'({base}, p = {self.p_holm:.2g} after Holm).'
            )
        if self.seeds_needed is None:
            more = (
                f'up to {MOST_SEEDS} seeds would not settle an effect of this size, more test '
                'images might'
            )
        elif self.seeds_needed <= self.seeds:
            more = 'one more seed could settle it, the correction for several candidates aside'
        else:
            more = f'about {self.seeds_needed} seeds would settle an effect of this size'
        return (
            f'Not settled: whether {self.candidate} is better than {self.reference} ({base}, '
            f'p = {self.p_holm:.2g} after Holm); {more}.'
        )


def effects(
    metric: str,
    scorers: Mapping[str, Mapping[int, Scorer]],
    reference: str,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[Effect]:
    """The effect of every candidate against the reference.

    Args:
        metric (str): Name of the score.
        scorers (Mapping[str, Mapping[int, Scorer]]): By candidate and training seed.
        reference (str): One of the candidates.
        resamples (int): Of the bootstrap. Defaults to 2000.
        seed (int): Of the bootstrap. Defaults to 0.

    Returns:
        list[Effect]: Of the other candidates that have a seed in common with the reference.

    Raises:
        UserError: If the runs do not have predictions of the same images.
    """
    found = []
    for name, runs in scorers.items():
        common = sorted(runs.keys() & scorers[reference].keys())
        if name == reference or not common:
            continue
        pairs = [(runs[i], scorers[reference][i]) for i in common]
        found.append(_effect(metric, name, reference, pairs, resamples, seed))
    corrected = holm([effect.p for effect in found])
    return [effect._replace(p_holm=p) for effect, p in zip(found, corrected, strict=True)]


def _effect(
    metric: str,
    name: str,
    reference: str,
    pairs: list[tuple[Scorer, Scorer]],
    resamples: int,
    seed: int,
) -> Effect:
    images = pairs[0][0].images
    if any(s.images != images or s.predicted != pairs[0][0].predicted for p in pairs for s in p):
        raise UserError(f'{name} and {reference} were not tested on the same images')
    observed = np.array([100 * (a.total - b.total) for a, b in pairs])  # (S,)
    drawn = np.array(
        [100 * (a.resampled(resamples, seed) - b.resampled(resamples, seed)) for a, b in pairs]
    )  # (S, resamples)
    count = len(pairs)
    generator = np.random.default_rng(seed + 1)
    of_images = np.nanmean(drawn, axis=0)  # (resamples,)
    from_images = float(np.nanstd(of_images))
    if count > 1:
        chosen = generator.integers(count, size=(resamples, count))
        of_seeds = observed[chosen].mean(1) - observed.mean()
        both = np.take_along_axis(drawn.T, chosen, axis=1).mean(1)
        stretch = math.sqrt(count / (count - 1))
        error = float(np.nanstd(of_images + stretch * (both - of_images)))
        from_seeds = stretch * float(of_seeds.std())
    else:
        error, from_seeds = from_images, math.nan
    value = float(observed.mean())
    freedom = _degrees_of_freedom(count, from_seeds, error)
    low, high, p = student(value, error, freedom)
    return Effect(
        name, reference, metric, value, low, high, p, p,
        count, from_seeds, from_images,
        seeds_needed(value, from_seeds * math.sqrt(count), from_images),
    )  # fmt: skip


def student(value: float, error: float, freedom: float) -> tuple[float, float, float]:
    """Student's interval of 95 % and two-sided p of an effect.

    Args:
        value (float): The effect.
        error (float): Its standard error.
        freedom (float): Degrees of freedom of the standard error.

    Returns:
        tuple[float, float, float]: Low, high and p.
    """
    reach = float(stats.t.isf(LEVEL / 2, freedom)) * error
    p = 2 * float(stats.t.sf(abs(value) / error, freedom)) if error > 0 else float(value == 0)
    return value - reach, value + reach, p


def _degrees_of_freedom(seeds: int, from_seeds: float, error: float) -> float:
    """Satterthwaite's, where only the seeds' part of a standard error is of few observations."""
    if seeds < 2 or from_seeds == 0:
        return math.inf
    return (seeds - 1) * max(1.0, error / from_seeds) ** 4


def seeds_needed(effect: float, of_a_seed: float, from_images: float) -> int | None:
    """How many seeds would settle an effect of this size.

    Args:
        effect (float): Its size.
        of_a_seed (float): Standard deviation that one seed causes.
        from_images (float): That the test images cause, which no seed lessens.

    Returns:
        int | None: At least 2; None if the test images alone scatter too much, or if it would take
        more than ``MOST_SEEDS``.
    """
    if math.isnan(of_a_seed):
        return None
    for seeds in range(2, MOST_SEEDS + 1):
        from_seeds = of_a_seed / math.sqrt(seeds)
        error = math.hypot(from_seeds, from_images)
        freedom = _degrees_of_freedom(seeds, from_seeds, error)
        if abs(effect) > stats.t.isf(LEVEL / 2, freedom) * error:
            return seeds
    return None


def holm(p: Sequence[float]) -> list[float]:
    """Holm's correction (1979): p-values that hold for all of several tests together.

    A p that is NaN stays NaN, and is not counted as a test.
    """
    corrected = [math.nan] * len(p)
    tests = [i for i in range(len(p)) if not math.isnan(p[i])]
    highest = 0.0
    for rank, i in enumerate(sorted(tests, key=p.__getitem__)):
        highest = max(highest, min(1.0, (len(tests) - rank) * p[i]))
        corrected[i] = highest
    return corrected
