"""Processes of a distributed run: how they are wrapped, and what they leave behind."""

import pytest
import torch.distributed as dist
from mmengine.config import Config

from mambaout_mm.training.launch import leave_process_group, prepare_launcher


def test_the_process_group_ends_before_python_does(tmp_path):
    """Else gloo's threads now and then abort a process whose work is done."""
    dist.init_process_group('gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    leave_process_group()
    assert not dist.is_initialized()
    leave_process_group()  # single-process runs have none


@pytest.mark.parametrize(
    'options',
    [
        {'find_unused_parameters': True},
        {'model_wrapper_cfg': dict(find_unused_parameters=True)},
        {},
    ],
    ids=str,
)
def test_parameters_without_gradients_are_allowed_on_cpus_too(options, monkeypatch):
    monkeypatch.setenv('RANK', '0')
    monkeypatch.setattr(dist, 'init_process_group', lambda backend: None)
    monkeypatch.setattr('mambaout_mm.training.launch.get_device', lambda: 'cpu')
    cfg = Config(dict(model=dict(neck=dict(norm_cfg=dict(type='SyncBN'))), **options))
    prepare_launcher(cfg, 'pytorch')
    assert cfg.model_wrapper_cfg.find_unused_parameters == bool(options)
    assert cfg.model.neck.norm_cfg.type == 'BN'
