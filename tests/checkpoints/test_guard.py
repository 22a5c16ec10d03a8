"""Checkpoints are data: what is planted in one does not run, however it is read."""

import os
import pickle

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModule
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader

from mambaout_mm.checkpoints import CheckpointError, checkpoints_are_data, read_checkpoint
from mambaout_mm.trust import trusting


class Planted:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


class ByAttribute(Planted):
    """Asks for `getattr`, which the maintained fork's allow-list has whole."""

    def __reduce__(self):
        return getattr, (HistoryBuffer, '__init__')


class Linear(BaseModule):
    def __init__(self, init_cfg=None):
        super().__init__(init_cfg)
        self.fc = torch.nn.Linear(1, 1)


def mmengine_loads(path):
    CheckpointLoader.load_checkpoint(path, map_location='cpu')


def init_cfg_loads(path):
    Linear(dict(type='Pretrained', checkpoint=path)).init_weights()


def torch_loads(path):
    torch.load(path, weights_only=False)


@pytest.mark.parametrize('load', [mmengine_loads, init_cfg_loads, torch_loads, read_checkpoint])
@pytest.mark.parametrize('kind', [Planted, ByAttribute])
def test_planted_code_does_not_run(tmp_path, load, kind):
    path = str(tmp_path / 'a.pth')
    torch.save(dict(state_dict=Linear().state_dict(), planted=kind(tmp_path / 'ran')), path)
    with pytest.raises((CheckpointError, pickle.UnpicklingError)), checkpoints_are_data():
        load(path)
    assert not (tmp_path / 'ran').exists()


@pytest.mark.parametrize('load', [mmengine_loads, init_cfg_loads, read_checkpoint])
def test_the_same_files_are_read_by_who_trusts_them(tmp_path, load):
    path = str(tmp_path / 'a.pth')
    torch.save(dict(state_dict=Linear().state_dict(), planted=Planted(tmp_path / 'ran')), path)
    with pytest.raises(CheckpointError, match='holds more than weights .*--trust'):
        read_checkpoint(path)
    with trusting(True), checkpoints_are_data():
        load(path)
    assert (tmp_path / 'ran').is_dir()


def test_a_config_in_a_checkpoint_does_not_reach_mmengine(tmp_path):
    """Its Runner.resume executes `meta['config']` of checkpoints from before MMEngine."""
    path = str(tmp_path / 'a.pth')
    torch.save(dict(meta=dict(config='import os', iter=3), state_dict={}), path)
    with checkpoints_are_data():
        loaded = CheckpointLoader.load_checkpoint(path)
    assert loaded['meta'] == dict(iter=3)


def test_what_a_runner_writes_is_read(tmp_path):
    path = str(tmp_path / 'a.pth')
    history = HistoryBuffer([1.0, 2.0], [1, 1])
    torch.save(dict(message_hub=dict(log_scalars=dict(loss=history)), state_dict={}), path)
    with checkpoints_are_data():
        loaded = CheckpointLoader.load_checkpoint(path)
    assert loaded['message_hub']['log_scalars']['loss'].mean() == 1.5


def test_mmengine_reads_as_before_afterwards(tmp_path):
    schemes = dict(CheckpointLoader._schemes)
    allowed = getattr(mmengine_checkpoint, 'get_torch_safe_globals', None)
    with checkpoints_are_data():
        assert CheckpointLoader._schemes != schemes
    assert dict(CheckpointLoader._schemes) == schemes
    assert getattr(mmengine_checkpoint, 'get_torch_safe_globals', None) is allowed
    assert 'TORCH_FORCE_WEIGHTS_ONLY_LOAD' not in os.environ
    path = str(tmp_path / 'a.pth')
    torch.save(dict(cfg=Config(dict(a=1))), path)
    torch_loads(path)
