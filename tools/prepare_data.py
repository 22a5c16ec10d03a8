"""Download, verify and unpack a dataset: ``python tools/prepare_data.py coco``."""

import argparse
import sys
from pathlib import Path

from mambaout_mm.data.catalogue import DATASETS
from mambaout_mm.data.prepare import check, prepare
from mambaout_mm.errors import add_debug_argument, exit_with_a_sentence


def main(argv: list[str] | None = None) -> None:
    """Run the tool.

    Args:
        argv (list[str] | None): Arguments; those of the process where None. Defaults to None.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('dataset', choices=DATASETS)
    parser.add_argument(
        '--root', type=Path, default=Path('data'), help='folder for the datasets (default: data)'
    )
    parser.add_argument(
        '--check', action='store_true', help='only say what is missing; exit code 1 if anything is'
    )
    add_debug_argument(parser)
    args = parser.parse_args(argv)
    dataset = DATASETS[args.dataset]
    try:
        with exit_with_a_sentence(args.debug):
            if args.check:
                sys.exit(0 if check(dataset, args.root) else 1)
            prepare(dataset, args.root)
    except KeyboardInterrupt:
        print('interrupted; the same command continues from here', file=sys.stderr)
        # 128 + SIGINT, as shells report it.
        sys.exit(130)


if __name__ == '__main__':
    main()
