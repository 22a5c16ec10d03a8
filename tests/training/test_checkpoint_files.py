"""Checkpoints that are whole at any moment, and which one a training goes on from."""

import os

import pytest
import torch
from mmengine.fileio import dump, get_file_backend, load
from mmengine.model import BaseModel
from mmengine.runner import Runner, save_checkpoint
from torch import nn
from torch.utils.data import DataLoader

from mambaout_mm.errors import UserError
from mambaout_mm.training import checkpoint_files
from mambaout_mm.training.checkpoint_files import (
    WholeFileBackend,
    newest_whole_checkpoint,
    whole_files,
)


def weights(side):
    return dict(state_dict=dict(weight=torch.zeros(side, side)))


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one_whole(tmp_path, small_disk):
    path = tmp_path / 'run' / 'iter_1.pth'
    with whole_files():
        save_checkpoint(weights(1), str(path))
        with pytest.raises(UserError, match=r"iter_1.pth' cannot be written: .*needs 4\d,\d{3} b"):
            save_checkpoint(weights(100), str(path))
    assert torch.load(path)['state_dict']['weight'].shape == (1, 1)
    assert [p.name for p in path.parent.iterdir()] == ['iter_1.pth']


def test_predictions_that_cannot_be_written_leave_the_old_ones(tmp_path, small_disk):
    path = tmp_path / 'predictions.pkl'
    dump([1], path)
    with whole_files(), pytest.raises(UserError, match=r"predictions.pkl' cannot be written"):
        dump(['a' * 50_000], path)
    assert load(path) == [1]


@pytest.mark.parametrize('enable_singleton', [False, True])
def test_mmengine_writes_as_before_afterwards(enable_singleton):
    with whole_files():
        backend = get_file_backend('a.pth', enable_singleton=enable_singleton)
        assert type(backend) is WholeFileBackend
    backend = get_file_backend('a.pth', enable_singleton=enable_singleton)
    assert type(backend) is not WholeFileBackend


def test_the_newest_that_reads_whole(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(checkpoint_files, 'print_log', lambda text, **_: said.append(text))
    assert newest_whole_checkpoint(tmp_path) is None
    for name in ('iter_2.pth', 'iter_9.pth', 'iter_10.pth', 'iter_11.pth', 'best_mIoU_iter_12.pth'):
        torch.save(weights(50), tmp_path / name)
    (tmp_path / 'last_checkpoint').write_text('/elsewhere/iter_11.pth')
    whole = (tmp_path / 'iter_10.pth').read_bytes()
    (tmp_path / 'iter_10.pth').write_bytes(whole[:5000])  # killed in the middle
    (tmp_path / 'iter_11.pth').write_bytes(bytes(len(whole)))  # of the right size
    assert newest_whole_checkpoint(tmp_path) == str(tmp_path / 'iter_9.pth')
    assert len(said) == 2
    for name, text in zip(('iter_11.pth', 'iter_10.pth'), said, strict=True):
        assert text.startswith(f'{tmp_path / name} is skipped: it is no whole checkpoint')
    changed = bytearray((tmp_path / 'iter_9.pth').read_bytes())
    changed[len(changed) // 2] ^= 255
    (tmp_path / 'iter_9.pth').write_bytes(changed)
    assert newest_whole_checkpoint(tmp_path) == str(tmp_path / 'iter_2.pth')
    (tmp_path / 'iter_2.pth').write_bytes(b'')
    with pytest.raises(UserError, match='no checkpoint in .* reads whole; remove them'):
        newest_whole_checkpoint(tmp_path)


class Line(BaseModel):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(1, 1)

    def forward(self, x, mode):
        return dict(loss=self.fc(x).square().mean())


def train(folder):
    Runner(
        model=Line(),
        work_dir=str(folder),
        train_dataloader=DataLoader([dict(x=torch.ones(1))] * 2),
        train_cfg=dict(by_epoch=True, max_epochs=3),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        default_hooks=dict(
            checkpoint=dict(type='KeepingCheckpointHook', interval=1, max_keep_ckpts=1)
        ),
        default_scope='mmengine',
        experiment_name=str(folder),
    ).train()


def test_the_old_checkpoint_goes_when_the_new_one_is_there(tmp_path, monkeypatch):
    train(tmp_path / 'whole')
    assert [p.name for p in (tmp_path / 'whole').glob('*.pth')] == ['epoch_3.pth']
    save = Runner.save_checkpoint

    def killed_at_the_third(self, out_dir, filename, *rest, **options):
        if filename == 'epoch_3.pth':
            raise KeyboardInterrupt
        save(self, out_dir, filename, *rest, **options)

    monkeypatch.setattr(Runner, 'save_checkpoint', killed_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / 'killed')
    assert [p.name for p in (tmp_path / 'killed').glob('*.pth')] == ['epoch_2.pth']


def test_folders_among_the_checkpoints_are_left_alone(tmp_path):
    run = tmp_path / 'run'
    for name in ('.unfinished.pth', 'preempted.pth', 'iter_9.pth'):
        (run / name).mkdir(parents=True)
    os.mkfifo(run / 'iter_5.pth')
    torch.save(weights(1), run / 'iter_2.pth')
    assert newest_whole_checkpoint(run) == str(run / 'iter_2.pth')
    train(run)
    assert (run / 'epoch_3.pth').is_file()
    assert (run / 'preempted.pth').is_dir()


def test_a_count_of_iterations_that_is_none(tmp_path):
    torch.save(weights(1) | dict(meta=dict(iter=7)), tmp_path / 'iter_7.pth')
    torch.save(weights(1) | dict(meta=dict(iter='many')), tmp_path / 'preempted.pth')
    assert newest_whole_checkpoint(tmp_path) == str(tmp_path / 'iter_7.pth')
