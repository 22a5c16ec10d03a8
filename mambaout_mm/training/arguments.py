"""Command-line arguments that training and testing share."""

import argparse
import os
from typing import Any

from mmengine.config import DictAction


def parse_run_arguments(parser: argparse.ArgumentParser) -> dict[str, Any]:
    """Add the shared flags to a parser, read the command line, and set ``LOCAL_RANK``.

    MMEngine reads the rank from the environment. torchrun and Slurm's start set it there; Open MPI
    has its own variable, and torchrun's predecessor passes an argument.

    Args:
        parser (argparse.ArgumentParser): With the tool's own arguments.

    Returns:
        dict[str, Any]: All arguments by name, without the rank.
    """
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
    parser.add_argument('--local_rank', '--local-rank', default='0', help=argparse.SUPPRESS)
    arguments = vars(parser.parse_args())
    rank = os.environ.get('OMPI_COMM_WORLD_LOCAL_RANK', arguments.pop('local_rank'))
    os.environ.setdefault('LOCAL_RANK', rank)
    return arguments
