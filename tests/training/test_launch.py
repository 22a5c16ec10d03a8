"""What a run leaves behind."""

import torch.distributed as dist

from mambaout_mm.training.launch import leave_process_group


def test_the_process_group_ends_before_python_does(tmp_path):
    """Else gloo's threads now and then abort a process whose work is done."""
    dist.init_process_group('gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    leave_process_group()
    assert not dist.is_initialized()
    leave_process_group()  # single-process runs have none
