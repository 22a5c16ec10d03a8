"""Epochs that a resumed training takes up where it was stopped."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop


class _RemainingBatches:
    """A batch sampler whose first pass leaves out the batches that are trained already."""

    def __init__(self, batches: Any, done: int) -> None:
        self._batches = batches
        self._done = done

    def __iter__(self) -> Iterator[list[int]]:
        done, self._done = self._done, 0
        return islice(iter(self._batches), done, None)

    def __len__(self) -> int:
        return len(self._batches)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batches, name)


# Configs in older work dirs have the second name.
@LOOPS.register_module(name=['ResumableEpochLoop', 'TakenUpEpochLoop'])
class ResumableEpochLoop(EpochBasedTrainLoop):
    """MMEngine's loop over epochs, which goes on inside of an epoch.

    MMEngine's begins the epoch of a checkpoint anew, with its iterations counted on. Takes the same
    arguments.
    """

    def run_epoch(self) -> None:
        """Train on the batches of the epoch that are left; nothing of the others is read."""
        done = self._iter - self._epoch * len(self.dataloader)
        if 0 < done <= len(self.dataloader):
            # A DataLoader refuses to have its batches set, but takes them anew for each epoch.
            vars(self.dataloader)['batch_sampler'] = _RemainingBatches(
                self.dataloader.batch_sampler, done
            )
        else:
            done = 0
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        for index, batch in enumerate(self.dataloader, start=done):
            self.run_iter(index, batch)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1
