"""Time MambaOut against timm's: `python tools/benchmark.py --sizes 512x512 800x1280`."""

import argparse
from pathlib import Path

import torch

from mambaout_mm.errors import add_debug_argument, exit_with_a_sentence
from mambaout_mm.measure.image_size import image_size
from mambaout_mm.speed.cases import DTYPES, FORMS, PASSES, Case
from mambaout_mm.speed.report import report
from mambaout_mm.speed.whole_models import WHOLE_MODELS

EAGER = ['ours', 'timm', 'timm channels_last']
ON_A_CPU = ['timm onednn']


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--arch', default='tiny', help='a variant of MambaOut (default: tiny)')
    parser.add_argument(
        '--models',
        nargs='+',
        choices=['backbone', *WHOLE_MODELS],
        default=['backbone'],
        help='the backbone alone, or in a detector or segmentor (default: backbone)',
    )
    parser.add_argument(
        '--what', nargs='+', choices=PASSES, default=['inference', 'forward+backward']
    )
    parser.add_argument(
        '--sizes',
        nargs='+',
        type=image_size,
        default=[(224, 224), (512, 512), (800, 1280), (512, 2048)],
        metavar='HxW',
        help='default: 224x224 512x512 800x1280 512x2048',
    )
    parser.add_argument('--batch', type=int, default=1)
    parser.add_argument('--dtypes', nargs='+', choices=DTYPES, default=list(DTYPES))
    parser.add_argument(
        '--forms',
        nargs='+',
        choices=FORMS,
        help=f'default: {", ".join(EAGER)}; on a CPU also {", ".join(ON_A_CPU)}',
    )
    parser.add_argument('--rounds', type=int, default=9, help='measurements of each (default: 9)')
    parser.add_argument(
        '--limit',
        type=float,
        default=60,
        help='seconds after which no round of a case starts, but for three (default: 60)',
    )
    parser.add_argument('--device', choices=['cpu', 'cuda'])
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('benchmarks/results'),
        help='folder for speed.csv and speed.png (default: benchmarks/results)',
    )
    add_debug_argument(parser)
    args = parser.parse_args(argv)
    if args.rounds < 3:
        parser.error('--rounds must be at least 3')
    if not args.limit > 0:  # nor nan
        parser.error(f'--limit {args.limit:g} must be above 0 seconds')
    if args.batch < 1:
        parser.error('--batch must be at least 1')
    device = args.device or ('cuda' if torch.cuda.is_available() else 'cpu')
    if device == 'cuda' and not torch.cuda.is_available():
        parser.error('--device cuda: PyTorch finds no CUDA device')
    cases = [
        Case(model, what, *sides, args.batch, dtype)
        for model in args.models
        for sides in args.sizes
        for what in args.what
        for dtype in args.dtypes
    ]
    forms = args.forms or EAGER + ON_A_CPU * (device == 'cpu')
    with exit_with_a_sentence(args.debug):
        report(args.arch, cases, forms, args.rounds, args.limit, device, args.out)


if __name__ == '__main__':
    main()
