"""The statistics of a study on scores whose answer is known."""

import math

import numpy as np
import pytest

from mambaout_mm.errors import UserError
from mambaout_mm.runs.bootstrap import Scorer
from mambaout_mm.study.statistics import effects, holm, seeds_needed

IMAGES = 200


class Known(Scorer):
    """A score that is the weighted mean of the images' own."""

    def __init__(self, values, images=None):
        super().__init__()
        self.values = np.asarray(values)
        self.images = tuple(range(len(values))) if images is None else images
        self.predicted = frozenset(self.images)

    def score(self, weights):
        return float(weights @ self.values / weights.sum())


def runs(effect, seeds=3, of_seeds=0.0, of_images=0.1, salt=0):
    """Scores of the images, those of each seed shifted by what it was lucky."""
    images = np.random.default_rng(1).normal(0.5, 0.1, IMAGES)
    found = {}
    for seed in range(seeds):
        rng = np.random.default_rng((seed, salt))
        luck = rng.normal(0, of_seeds)
        found[seed] = Known(images + effect + luck + rng.normal(0, of_images, IMAGES))
    return found


def effect_of(a, b, **options):
    (effect,) = effects('mIoU', dict(a=a, b=b), 'b', **options)
    return effect


def test_a_large_effect_is_settled():
    effect = effect_of(runs(0.1, salt=1), runs(0.0))
    assert effect.value == pytest.approx(10, abs=1.5)
    assert effect.low < effect.value < effect.high and effect.low > 5
    assert effect.settled and effect.p < 0.01
    assert effect.sentence.startswith('a is better than b here (+')
    worse = effect_of(runs(0.0), runs(0.1, salt=1))
    assert worse.settled and worse.sentence.startswith('a is worse than b here (-')


def test_nothing_is_not_settled():
    effect = effect_of(runs(0.0, of_seeds=0.02, salt=1), runs(0.0, of_seeds=0.02))
    assert effect.low < 0 < effect.high and not effect.settled
    assert effect.sentence.startswith('Not settled: whether a is better than b')


def test_the_interval_covers_luck_of_seeds_that_test_images_do_not_show():
    a, b = runs(0.03, of_seeds=0.05, of_images=0.001, salt=3), runs(0, of_images=0.001)
    effect = effect_of(a, b)
    assert effect.from_seeds > 5 * effect.from_images
    assert effect.high - effect.low > 3.5 * effect.from_seeds


@pytest.mark.parametrize(
    'seeds, of_images', [(2, 0.001), (3, 0.001), (3, 0.2)], ids=['2', '3', '3, and test images']
)
def test_of_no_effect_one_is_found_as_seldom_as_it_says(seeds, of_images):
    """Percentiles of the bootstrap find one in 18 of 100 studies of three seeds, 39 of two."""
    settled = covered = 0
    for trial in range(100):
        a = runs(0, seeds, of_seeds=0.02, of_images=of_images, salt=2 * trial)
        b = runs(0, seeds, of_seeds=0.02, of_images=of_images, salt=2 * trial + 1)
        effect = effect_of(a, b, resamples=100)
        settled += effect.settled
        covered += effect.low <= 0 <= effect.high
    assert covered + settled == 100
    assert settled / 100 < 0.1


def test_one_seed_says_that_it_is_one():
    effect = effect_of(runs(0.1, seeds=1, salt=1), runs(0.0, seeds=1))
    assert 'a single seed says nothing of the noise of training' in effect.sentence
    assert np.isnan(effect.from_seeds) and effect.seeds_needed is None


def test_only_common_seeds_are_compared():
    a = runs(0.1, seeds=4, salt=1)
    assert effect_of(a, runs(0.0, seeds=2)).seeds == 2
    assert effects('mIoU', dict(a={7: a[0]}, b=runs(0.0)), 'b') == []


def test_other_images_are_refused():
    other = {0: Known(np.zeros(3), images=('x', 'y', 'z'))}
    with pytest.raises(UserError, match='a and b were not tested on the same images'):
        effects('mIoU', dict(a=other, b={0: Known(np.zeros(3))}), 'b')


def test_the_same_draws_give_the_same_numbers():
    pair = runs(0.02, salt=1), runs(0.0)
    assert effect_of(*pair) == effect_of(*pair)
    assert effect_of(*pair, seed=1).low != effect_of(*pair).low


@pytest.mark.parametrize(
    'p, corrected',
    [
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),
        ([0.5, 0.9], [1.0, 1.0]),
        ([0.02], [0.02]),
        ([0.02, math.nan, 0.03], [0.04, math.nan, 0.04]),
        ([], []),
    ],
)
def test_holms_correction(p, corrected):
    assert holm(p) == pytest.approx(corrected, nan_ok=True)


def test_how_many_seeds_would_settle_it():
    assert seeds_needed(1.96, of_a_seed=2.0, from_images=0.0) == 7  # Student's 2.45 * 2 / 7 ** 0.5
    assert seeds_needed(-1.96, of_a_seed=2.0, from_images=0.8) == 12
    assert seeds_needed(1.0, of_a_seed=0.1, from_images=0.6) is None
    assert seeds_needed(0.01, of_a_seed=2.0, from_images=0.0) is None
    assert seeds_needed(5.0, of_a_seed=0.1, from_images=0.1) == 2


def test_the_correction_reaches_the_sentences():
    scorers = dict(b=runs(0.0), **{f'a{i}': runs(0.004, salt=i + 1) for i in range(6)})
    found = effects('mIoU', scorers, 'b')
    assert len(found) == 6
    assert all(effect.p_holm >= effect.p for effect in found)
    assert any(effect.p_holm > effect.p for effect in found)
