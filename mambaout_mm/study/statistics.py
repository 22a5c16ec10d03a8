"""What the scores of a study say: effects with intervals, and sentences.

Two things are chance in a study: which seeds were trained, and which images were tested on. The
bootstrap draws both: seeds with replacement, and in the same draw test images with replacement, the
same ones for all candidates. Runs of two candidates with one seed have the same data order, so
seeds are drawn in pairs.

The mean of S seeds drawn with replacement from S scatters by sqrt((S - 1) / S) of what the mean of
S new seeds would: its deviations are stretched by the inverse (Davison and Hinkley 1997, Bootstrap
Methods and their Application, section 3.2).
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mambaout_mm.errors import UserError
from mambaout_mm.runs.bootstrap import Scorer

RESAMPLES = 2000
LEVEL = 0.05


class Effect(NamedTuple):
    """How far a candidate's score is above that of the reference, in percent points.

    Attributes:
        candidate, reference (str): Names.
        metric (str): 'box AP', 'mask AP' or 'mIoU'.
        value (float): Mean over the seeds on all test images.
        low, high (float): 95 % interval over seeds and test images.
        p (float): Two-sided, of the bootstrap; at least 1 / (resamples + 1).
        p_holm (float): The same after Holm's correction for several candidates.
        seeds (int): Pairs of runs.
        from_seeds, from_images (float): Standard deviation of the mean that each causes.
        seeds_needed (int | None): How many would make an effect of this size more than noise; None
            if the test images alone scatter too much for it.
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
            more = 'more seeds would not settle an effect of this size, more test images might'
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
    if count > 1:
        chosen = generator.integers(count, size=(resamples, count))
        of_seeds = observed[chosen].mean(1) - observed.mean()
        both = np.take_along_axis(drawn.T, chosen, axis=1).mean(1)
        stretch = math.sqrt(count / (count - 1))
        draws = of_images + stretch * (both - of_images)
        from_seeds = stretch * float(of_seeds.std())
    else:
        draws, from_seeds = of_images, math.nan
    value = float(observed.mean())
    low, high = np.nanpercentile(draws, [100 * LEVEL / 2, 100 * (1 - LEVEL / 2)])
    tail = min(np.sum(draws <= 0), np.sum(draws >= 0))
    p = min(1.0, 2 * (tail + 1) / (resamples + 1))
    from_images = float(np.nanstd(of_images))
    return Effect(
        name, reference, metric, value, float(low), float(high), float(p), float(p),
        count, from_seeds, from_images,
        seeds_needed(value, from_seeds * math.sqrt(count), from_images),
    )  # fmt: skip


def seeds_needed(effect: float, of_a_seed: float, from_images: float) -> int | None:
    """How many seeds would put an effect 1.96 standard deviations from zero.

    Args:
        effect (float): Its size.
        of_a_seed (float): Standard deviation that one seed causes.
        from_images (float): That the test images cause, which no seed lessens.

    Returns:
        int | None: At least 2; None if the test images alone scatter too much.
    """
    room = (effect / 1.96) ** 2 - from_images**2
    if not room > 0 or math.isnan(of_a_seed):
        return None
    return max(2, math.ceil(of_a_seed**2 / room))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's correction (1979): p-values that hold for all of several tests together."""
    corrected = [1.0] * len(p)
    highest = 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        highest = max(highest, min(1.0, (len(p) - rank) * p[i]))
        corrected[i] = highest
    return corrected
