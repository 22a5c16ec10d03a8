"""Download, verify and unpack a dataset: ``python tools/prepare_data.py coco``.

``coco --check`` only says what of it is missing. ``--check CONFIG``, with the path of a config,
reads all images and annotations of the config's data sets and lists what a training would stumble
over.
"""

import argparse
import os
import sys
from pathlib import Path

from mambaout_mm.data.catalogue import DATASETS
from mambaout_mm.data.prepare import check, prepare
from mambaout_mm.errors import add_debug_argument, exit_with_a_sentence
from mambaout_mm.files import LONGEST_NAME


def main(argv: list[str] | None = None) -> None:
    """Run the tool.

    Args:
        argv (list[str] | None): Arguments; those of the process where None. Defaults to None.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'dataset',
        help=f'{" or ".join(DATASETS)}; with --check also the path of a config',
    )
    parser.add_argument(
        '--root', type=Path, default=Path('data'), help='folder for the datasets (default: data)'
    )
    parser.add_argument(
        '--check',
        action='store_true',
        help='only say what is missing or, for a config, what is wrong; exit code 1 if anything is',
    )
    add_debug_argument(parser)
    args = parser.parse_args(argv)
    if any(len(os.fsencode(part)) > LONGEST_NAME for part in args.root.parts):
        parser.error(f'--root: a name in it is longer than {LONGEST_NAME} bytes')
    is_config = args.check and args.dataset.endswith('.py')
    if args.dataset not in DATASETS and not is_config:
        parser.error(
            f'{args.dataset!r} is none of {", ".join(DATASETS)}; a config (.py) goes with --check'
        )
    with exit_with_a_sentence(args.debug):
        if is_config:
            from mambaout_mm.training.data_checks import check_whole  # PyTorch and mmdet

            sys.exit(0 if check_whole(args.dataset) else 1)
        dataset = DATASETS[args.dataset]
        if args.check:
            sys.exit(0 if check(dataset, args.root) else 1)
        try:
            prepare(dataset, args.root)
        except KeyboardInterrupt:
            print('interrupted; the same command continues from here', file=sys.stderr)
            # 128 + SIGINT, as shells report it.
            sys.exit(130)


if __name__ == '__main__':
    main()
