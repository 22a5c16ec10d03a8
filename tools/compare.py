"""Compare backbones: `python tools/compare.py`, a table, pictures and a page in comparison/."""

# ruff: noqa: E402
import time

STARTED = time.perf_counter()  # the imports below take some of the budget

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from mambaout_mm.comparison.catalogue import PRESETS
from mambaout_mm.comparison.options import GROWTH_SIZES, Options
from mambaout_mm.comparison.output import compare_and_write
from mambaout_mm.comparison.sections import FLAGS
from mambaout_mm.errors import add_debug_argument, exit_with_a_sentence
from mambaout_mm.measure.growth import DTYPES
from mambaout_mm.measure.image_size import image_size
from mambaout_mm.trust import add_trust_argument


def named_checkpoint(text: str) -> tuple[str, str]:
    """'MambaOut-T=mambaout://tiny': a backbone and its weights."""
    name, equals, checkpoint = text.partition('=')
    if not (name and equals and checkpoint):
        raise argparse.ArgumentTypeError(
            f'{text!r} is no BACKBONE=CHECKPOINT, as in MambaOut-T=mambaout://tiny'
        )
    return name, checkpoint


@contextmanager
def told_on_interruption(out: Path) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        print(f'interrupted; the same command goes on from what is in {out}', file=sys.stderr)
        sys.exit(130)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    which = parser.add_mutually_exclusive_group()
    which.add_argument('--preset', choices=PRESETS, default='tiny', help='default: tiny')
    which.add_argument(
        '--backbones',
        nargs='+',
        metavar='NAME',
        help='names (MambaOut-T), presets, TYPE:VARIANT (TimmPyramid:resnet50), or config files',
    )
    parser.add_argument(
        '--only',
        type=lambda text: [part.strip() for part in text.split(',')],
        default=list(FLAGS),
        metavar='SECTION,...',
        help=f'out of {",".join(FLAGS)} (default: all)',
    )
    parser.add_argument(
        '--runs', nargs='+', type=Path, default=[], metavar='WORK_DIR', help='your own trainings'
    )
    parser.add_argument('--device', choices=['cpu', 'cuda'], help='default: CUDA if there is one')
    parser.add_argument('--dtype', choices=DTYPES, default='fp32', help='of timing, default: fp32')
    parser.add_argument(
        '--sizes',
        nargs='+',
        type=image_size,
        default=list(GROWTH_SIZES),
        metavar='HxW',
        help='images of the growth curves (default: squares from 224 to 2048)',
    )
    parser.add_argument('--train', action='store_true', help='time forward + backward, too')
    parser.add_argument(
        '--budget',
        type=float,
        default=300,
        metavar='SECONDS',
        help='for all of it; what would pass it is left out, and says so (default: 300)',
    )
    parser.add_argument(
        '--checkpoints',
        nargs='+',
        type=named_checkpoint,
        default=[],
        metavar='NAME=WEIGHTS',
        help='weights for the effective receptive field (default: random)',
    )
    parser.add_argument(
        '--check',
        action='store_true',
        help='count parameters and MACs anew; exit with 1 if they are not as printed and recorded',
    )
    parser.add_argument(
        '--out', type=Path, default=Path('comparison'), help='folder (default: comparison)'
    )
    add_trust_argument(parser)
    add_debug_argument(parser)
    args = parser.parse_args(argv)
    if not args.budget > 0:  # nor nan
        parser.error(f'--budget {args.budget:g} must be above 0 seconds')
    if args.check and 'cost' not in args.only:
        parser.error('--check compares costs: add cost to --only')
    if args.device == 'cuda' and not torch.cuda.is_available():
        parser.error('--device cuda: PyTorch finds no CUDA device')
    with exit_with_a_sentence(args.debug), told_on_interruption(args.out):
        options = Options(
            backbones=args.backbones or args.preset,
            device=args.device,
            dtype=args.dtype,
            sizes=args.sizes,
            train=args.train,
            budget=args.budget,
            only=args.only,
            runs=args.runs,
            checkpoints=dict(args.checkpoints),
            out=args.out,
            trust=args.trust,
            count_anew=args.check,
        )
        wrong = compare_and_write(options, STARTED)
    sys.exit(1 if wrong else 0)


if __name__ == '__main__':
    main()
