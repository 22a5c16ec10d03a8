"""Random numbers that depend on the place in a training alone, so that a resumed run is the same.

MMEngine seeds once at the start; what is drawn later depends on all that was drawn before, which a
resumed run has not drawn. Here the augmentation of each sample has a seed of its own, made of the
run's seed, the epoch and the sample's place in it, and so has each iteration of the model (drop
path, the heads' samplers). The order of samples is MMEngine's, from the run's seed.
"""

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.dist import get_rank, sync_random_seed
from mmengine.hooks import Hook
from mmengine.registry import DATA_SAMPLERS, HOOKS, TRANSFORMS
from mmengine.runner import Runner
from torch.utils.data import Sampler

from mambaout_mm.config_tree import dicts_in


def seed_of(*place: int) -> int:
    """A seed below 2^32 for a place, such as (run's seed, epoch, number of the sample)."""
    return int(np.random.SeedSequence(place).generate_state(1)[0])


class SeededIndex(int):
    """The index of a sample with the seed of its augmentation."""

    seed: int

    def __new__(cls, index: int, seed: int) -> 'SeededIndex':
        new = super().__new__(cls, index)
        new.seed = seed
        return new

    def __getnewargs__(self) -> tuple[int, int]:
        return int(self), self.seed


@DATA_SAMPLERS.register_module()
class SeededSampler(Sampler):
    """Another sampler's indices, each with a seed.

    Args:
        dataset (BaseDataset): What is sampled.
        sampler (dict): Config of the other sampler.
        seed (int, optional): Of the run. Defaults to None: drawn, the same in all processes.
    """

    def __init__(self, dataset: BaseDataset, sampler: dict, seed: int | None = None) -> None:
        self.seed = sync_random_seed() if seed is None else seed
        self.sampler = DATA_SAMPLERS.build(
            sampler, default_args=dict(dataset=dataset, seed=self.seed)
        )
        self.dataset = dataset
        self.epoch = 0
        self.skipped = 0
        if hasattr(self.sampler, 'skip'):  # MMEngine asks for it so before a resumed training
            self.skip = self._skip

    def __iter__(self) -> Iterator[SeededIndex]:
        for place, index in enumerate(self.sampler, start=self.skipped):
            yield SeededIndex(index, seed_of(self.seed, self.epoch, place, get_rank()))

    def __len__(self) -> int:
        return len(self.sampler)

    def _skip(self, num_samples: int) -> None:
        """Begin after so many samples, none of which is read (as in MMEngine's InfiniteSampler)."""
        self.sampler.skip(num_samples)
        self.skipped = num_samples

    def set_epoch(self, epoch: int) -> None:
        """For the seeds, and for the other sampler's order if it has one for each epoch."""
        self.epoch = epoch
        if hasattr(self.sampler, 'set_epoch'):  # MMEngine's InfiniteSampler has no epochs
            self.sampler.set_epoch(epoch)


@TRANSFORMS.register_module()
class SeedAugmentation:
    """First in a pipeline: seeds Python's and NumPy's random numbers for the sample.

    Where another data set between the sampler and this pipeline has taken the seed off the index
    (MMEngine's ConcatDataset and RepeatDataset do), it does nothing.
    """

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        seed = getattr(results.get('sample_idx'), 'seed', None)
        if seed is not None:
            random.seed(seed)
            np.random.seed(seed)
        return results

    def __repr__(self) -> str:
        return 'SeedAugmentation()'


@HOOKS.register_module()
class SeedIterationsHook(Hook):
    """Seeds Python, NumPy and PyTorch before each training iteration."""

    priority = 'VERY_HIGH'

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """From the run's seed, the iteration and the process's rank."""
        seed = seed_of(runner.seed, runner.iter, get_rank())
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)


def seed_by_place(cfg: Config) -> None:
    """Put the sampler and the transform into a config's training data, in place."""
    loader = cfg.train_dataloader
    if loader.sampler.get('type') == 'SeededSampler':  # of a config that a run has written
        return
    loader.sampler = dict(type='SeededSampler', sampler=loader.sampler)
    for _, node in dicts_in(loader.dataset):
        if isinstance(node.get('pipeline'), list):
            node['pipeline'] = [dict(type='SeedAugmentation'), *node['pipeline']]
