"""Processes of one run: started by a launcher, on GPUs or CPUs, and ended in order."""

import gc
import os

import torch.distributed
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import print_log

from mambaout_mm.config_tree import dicts_in
from mambaout_mm.errors import UserError

from .lock import RANKS

SYNCED = ('SyncBN', 'MMSyncBN')
STARTERS = dict(pytorch='torchrun (tools/dist_train.sh)', slurm='srun', mpi='mpirun')


def prepare_launcher(cfg: Config, launcher: str) -> None:
    """Set the launcher; on machines without an accelerator start gloo in place of nccl.

    MMEngine's own start calls ``torch.cuda.set_device``, and its DistributedDataParallel names a
    device; both stop on a CPU.
    """
    cfg.launcher = launcher
    rank = RANKS.get(launcher)
    if rank and rank not in os.environ:
        raise UserError(
            f'--launcher {launcher}: {STARTERS[launcher]} did not start this process (there is no '
            f'{rank} in its environment); start it with {STARTERS[launcher]}, or leave --launcher '
            'out for one process'
        )
    if launcher == 'none' or get_device() != 'cpu':
        return
    if launcher != 'pytorch':
        raise UserError(
            f'--launcher {launcher} needs an accelerator; on CPUs use --launcher pytorch (torchrun)'
        )
    torch.distributed.init_process_group('gloo')
    wrapper = cfg.get('model_wrapper_cfg') or {}
    cfg.model_wrapper_cfg = dict(
        type='MMDistributedDataParallel',
        device_ids=None,
        broadcast_buffers=False,
        find_unused_parameters=bool(
            cfg.get('find_unused_parameters') or wrapper.get('find_unused_parameters')
        ),
    )
    if without_sync_bn(cfg.model):
        print_log('SyncBN is BN on each process here: CPUs cannot synchronise it', logger='current')


def without_sync_bn(part: dict) -> int:
    """Make each SyncBN, PyTorch's or mmcv's, in a model's config a BN, in place.

    They run across processes, and on accelerators only.

    Returns:
        int: How many there were.
    """
    synced = [node for _, node in dicts_in(part) if node.get('type') in SYNCED]
    for node in synced:
        node['type'] = 'BN'
    return len(synced)


def leave_process_group() -> None:
    """End what the launcher started, while Python still runs.

    Left to the interpreter's end, gloo's threads now and then abort a process whose work is done
    (pytorch/pytorch PR #179291). A model wrapped for distribution holds the group, hence the
    collection.
    """
    if torch.distributed.is_initialized():
        torch.distributed.barrier()  # nobody hangs up on a slower process
        gc.collect()
        torch.distributed.destroy_process_group()
