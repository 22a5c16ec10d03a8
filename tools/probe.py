"""How far does a backbone see? `python tools/probe.py`: a table and a picture."""

import argparse
from pathlib import Path
from typing import Any

from mmengine.device import get_device
from rich.console import Console

from mambaout_mm.backbones.gated_blocks import MIXERS
from mambaout_mm.errors import add_debug_argument, exit_with_a_sentence
from mambaout_mm.files import check_folder
from mambaout_mm.probe.candidates import mixers_in, registered
from mambaout_mm.probe.report import CSV, EFFECTS, PICTURE, run_all
from mambaout_mm.probe.run import Settings

DEFAULTS = Settings()


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--mixers',
        nargs='*',
        choices=MIXERS,
        default=['identity', 'conv', 'ssm', 'conv+ssm', 'attention'],
        help="token mixers of MambaOut's body (default: identity conv ssm conv+ssm attention)",
    )
    parser.add_argument(
        '--backbones',
        nargs='*',
        default=[],
        metavar='NAME',
        help='networks besides, by the names of tools/compare.py; their costs differ',
    )
    four = dict(nargs=4, type=int, metavar='N')
    parser.add_argument('--depths', **four, default=[1, 1, 3, 1], help='default: 1 1 3 1')
    parser.add_argument('--dims', **four, default=[24, 48, 96, 144], help='default: 24 48 96 144')
    parser.add_argument('--kernel-size', type=int, default=7, help='of convolutions (default: 7)')
    parser.add_argument(
        '--stages',
        nargs='+',
        type=int,
        choices=(1, 2, 3, 4),
        default=[3, 4],
        help='that have the mixer; the others have convolutions (default: 3 4)',
    )
    parser.add_argument(
        '--size', type=int, default=DEFAULTS.size, help=f'of images (default: {DEFAULTS.size})'
    )
    parser.add_argument(
        '--distances',
        nargs='+',
        type=float,
        default=list(DEFAULTS.distances),
        metavar='FRACTION',
        help='lengths of the curves, as fractions of the size (default: 0.25 0.4 0.55 0.75)',
    )
    for name, what in (
        ('distractors', 'curves beside the marked one'),
        ('iterations', 'of training'),
        ('batch', 'images of an iteration'),
        ('test-images', 'for each distance'),
    ):
        default = getattr(DEFAULTS, name.replace('-', '_'))
        parser.add_argument(
            f'--{name}', type=int, default=default, help=f'{what} (default: {default})'
        )
    parser.add_argument(
        '--learning-rate',
        type=float,
        default=DEFAULTS.learning_rate,
        help=f'highest, of AdamW (default: {DEFAULTS.learning_rate:g})',
    )
    parser.add_argument('--seeds', type=int, default=3, help='of each network (default: 3)')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/probe'))
    add_debug_argument(parser)
    args = parser.parse_args(argv)
    for name in ('iterations', 'batch', 'test_images', 'seeds'):
        if getattr(args, name) < 1:
            parser.error(f'--{name.replace("_", "-")} must be at least 1')
    if args.distractors < 0:
        parser.error('--distractors must be at least 0')
    if args.size < 64:
        parser.error(f'--size {args.size} is too small; images start at 64 pixels')
    if not all(0 < distance <= 1 for distance in args.distances):
        parser.error('--distances are fractions of the size, above 0 and at most 1')
    if not 0 < args.learning_rate < 1:
        parser.error(f'--learning-rate {args.learning_rate:g} must be above 0 and below 1')
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    settings = Settings(
        size=args.size,
        distances=tuple(sorted(set(args.distances))),
        distractors=args.distractors,
        iterations=args.iterations,
        batch=args.batch,
        test_images=args.test_images,
        learning_rate=args.learning_rate,
    )
    arch: dict[str, Any] = dict(
        depths=tuple(args.depths), dims=tuple(args.dims), kernel_size=args.kernel_size
    )
    console = Console(highlight=False, soft_wrap=True)
    with exit_with_a_sentence(args.debug):
        check_folder(args.out, '--out')
        candidates = mixers_in(arch, args.mixers, args.stages, args.size)
        candidates += registered(args.backbones, args.size)
        for candidate in candidates:
            console.print(
                f'{candidate.name:20} {candidate.macs / 1e6:8.1f} M MACs '
                f'{candidate.params / 1e3:8.1f} k parameters, '
                f'theoretical field {candidate.theoretical_px:g} pixels'
            )
        for rows in run_all(candidates, settings, args.seeds, args.out, get_device()):
            scores = '  '.join(f'{row["distance_px"]} px: {row["iou"]:.3f}' for row in rows)
            first = rows[0]
            console.print(
                f'{first["network"]:20} seed {first["seed"]}  IoU at {scores}  '
                f'({first["seconds"]:.0f} s)'
            )
    console.print(
        f'{args.out / CSV} has the table, {args.out / EFFECTS} how far each network is above the '
        f'first, {args.out / PICTURE} the picture'
    )


if __name__ == '__main__':
    main()
