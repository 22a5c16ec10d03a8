"""Train a config: `python tools/train.py configs/detection/maskrcnn_mambaout_t.py --amp`."""

import argparse
import os

from mmengine.config import DictAction

from mambaout_mm.errors import exit_on_user_error
from mambaout_mm.training.run import train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='path of the config')
    parser.add_argument('--work-dir', help='logs and checkpoints; default work_dirs/<config>')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        help='go on from this checkpoint, or from the latest one in the work dir if none is named',
    )
    parser.add_argument('--amp', action='store_true', help='mixed precision (FP16), as the paper')
    parser.add_argument(
        '--demo',
        action='store_true',
        help='train on the small embedded data set: no download, a few minutes on a laptop',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='change the config, as in model.backbone.with_cp=True train_dataloader.batch_size=8',
    )
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
        train(**args)


if __name__ == '__main__':
    main()
