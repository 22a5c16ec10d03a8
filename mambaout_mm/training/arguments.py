"""Command-line arguments that training and testing share."""

import argparse
import os
from collections.abc import Sequence
from typing import Any

from mmengine.config import DictAction

from mambaout_mm.errors import add_debug_argument
from mambaout_mm.trust import add_trust_argument


class _Options(DictAction):
    """MMEngine's KEY=VALUE pairs; what it cannot read ends in a sentence."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Sequence[str],
        option_string: str | None = None,
    ) -> None:
        """Take up the pairs."""
        for pair in values:
            key, equals, value = pair.partition('=')
            if not (key and equals):
                parser.error(
                    f'--cfg-options {pair!r} is no KEY=VALUE; without spaces around =, as in '
                    'model.backbone.with_cp=True'
                )
            if value.startswith(('dict(', '{')):
                parser.error(
                    f'--cfg-options {pair!r}: a dict cannot be given; give each of its keys, as in '
                    f'{key}.NAME=VALUE'
                )
            try:
                super().__call__(parser, namespace, [pair], option_string)
            except (AssertionError, RecursionError):  # its parser's
                parser.error(
                    f'--cfg-options {pair!r}: the value cannot be read; lists are [a,b], tuples '
                    '(a,b), with as many closing brackets as opening ones'
                )


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
        action=_Options,
        help='change the config, as in model.backbone.with_cp=True train_dataloader.batch_size=8',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='how the processes of a distributed run were started',
    )
    add_trust_argument(parser)
    add_debug_argument(parser)
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    arguments = vars(parser.parse_args())
    rank = os.environ.get('OMPI_COMM_WORLD_LOCAL_RANK', arguments.pop('local_rank'))
    os.environ.setdefault('LOCAL_RANK', str(rank))
    return arguments
