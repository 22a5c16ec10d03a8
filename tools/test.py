"""Evaluate a checkpoint: `python tools/test.py CONFIG CHECKPOINT`, AP or mIoU."""

import argparse
import os

from mmengine.config import DictAction

from mambaout_mm.errors import exit_on_user_error
from mambaout_mm.training.run import test


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='path of the config')
    parser.add_argument('checkpoint', help='path or URL of the checkpoint')
    parser.add_argument('--work-dir', help='logs; default work_dirs/<config>')
    parser.add_argument(
        '--tta', action='store_true', help='multi-scale and flip (segmentation): mIoU MS'
    )
    parser.add_argument('--out', help='write all predictions to this .pkl file')
    parser.add_argument('--show-dir', help='write pictures of truth and prediction to this folder')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='change the config')
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='how the processes of a distributed run were started',
    )
    # torchrun's predecessor passes the rank as an argument.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    args = vars(parser.parse_args())
    local_rank = args.pop('local_rank')
    os.environ.setdefault(
        'LOCAL_RANK', os.environ.get('OMPI_COMM_WORLD_LOCAL_RANK', str(local_rank))
    )
    with exit_on_user_error():
        test(**args)


if __name__ == '__main__':
    main()
