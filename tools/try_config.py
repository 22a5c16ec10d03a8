"""Put a backbone into any mmdet or mmseg config: `python tools/try_config.py CONFIG`."""

import argparse
from pathlib import Path

from mambaout_mm.errors import add_debug_argument, exit_with_a_sentence
from mambaout_mm.transplant.run import try_config
from mambaout_mm.transplant.sweep import sweep
from mambaout_mm.transplant.text import PACKAGES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument(
        'config', nargs='?', help='path, or name as in mmdet::detr/detr_r50_8xb2-150e_coco.py'
    )
    which.add_argument(
        '--all',
        choices=PACKAGES,
        help='try the first ResNet-50 config of every algorithm, with its own backbone too',
    )
    parser.add_argument(
        '--backbone',
        metavar='NAME',
        help='as tools/compare.py takes it (default: MambaOut-T; MambaOut-Femto with --all)',
    )
    parser.add_argument(
        '--out', type=Path, metavar='FILE', help='write the config, or a csv file with --all'
    )
    add_debug_argument(parser)
    args = parser.parse_args()
    with exit_with_a_sentence(args.debug):
        if args.all:
            sweep(args.all, args.backbone or 'MambaOut-Femto', args.out)
        else:
            try_config(args.config, args.backbone or 'MambaOut-T', args.out)


if __name__ == '__main__':
    main()
