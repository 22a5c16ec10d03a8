"""Epochs that go on where a training was stopped."""

import pytest
import torch
from mmengine.dataset import DefaultSampler, pseudo_collate
from mmengine.model import BaseModel
from mmengine.registry import LOOPS
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from mambaout_mm.training.checkpoint_files import PREEMPTED, newest_whole_checkpoint
from mambaout_mm.training.interruption import SaveThenStopHook, Stopped
from mambaout_mm.training.loops import ResumableEpochLoop

SAMPLES = 7


class Reads:
    """Numbers; remembers which were read."""

    metainfo = dict(classes=('a',))

    def __init__(self):
        self.read = []

    def __len__(self):
        return SAMPLES

    def __getitem__(self, index):
        self.read.append(int(index))
        return torch.tensor([float(index)])


class Line(BaseModel):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(1, 1)

    def forward(self, x, mode):
        return dict(loss=(self.fc(torch.stack(x)) - 1).square().mean())

    def train_step(self, data, optim_wrapper):
        return super().train_step(dict(x=data), optim_wrapper)


def train(folder, data, asked_after=None, resume=False):
    """Two epochs of four batches; a signal arrives after so many iterations."""
    saver = SaveThenStopHook('SIGUSR1')
    runner = Runner(
        model=Line(),
        work_dir=str(folder),
        train_dataloader=DataLoader(
            data, sampler=DefaultSampler(data, seed=3), batch_size=2, collate_fn=pseudo_collate
        ),
        train_cfg=dict(type='ResumableEpochLoop', max_epochs=2),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9)),
        default_hooks=dict(
            checkpoint=dict(type='KeepingCheckpointHook', interval=1, max_keep_ckpts=1)
        ),
        load_from=newest_whole_checkpoint(folder) if resume else None,
        resume=resume,
        randomness=dict(seed=0),
        default_scope='mmengine',
        experiment_name=f'{folder}{resume}',
    )
    runner.register_hook(saver)
    step = runner.model.train_step

    def train_step(*args, **kwargs):
        if runner.iter + 1 == asked_after:
            saver.arrived = 10
        return step(*args, **kwargs)

    runner.model.train_step = train_step
    runner.train()
    return runner.model.fc.weight.item()


@pytest.mark.parametrize('asked_after', [1, 3, 4, 6, 8])
def test_stopped_anywhere_and_resumed_is_the_same_training(tmp_path, asked_after):
    whole, before, after = Reads(), Reads(), Reads()
    weight = train(tmp_path / 'whole', whole)
    with pytest.raises(Stopped):
        train(tmp_path / 'stopped', before, asked_after)
    assert newest_whole_checkpoint(tmp_path / 'stopped').endswith(PREEMPTED)
    assert train(tmp_path / 'stopped', after, resume=True) == weight
    assert before.read + after.read == whole.read
    assert sorted(p.name for p in (tmp_path / 'stopped').glob('*.pth')) == ['epoch_2.pth']


def test_the_name_in_configs_of_older_work_dirs_is_known():
    assert LOOPS.get('TakenUpEpochLoop') is ResumableEpochLoop
