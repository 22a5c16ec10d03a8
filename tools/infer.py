"""Predict on pictures: `python tools/infer.py photo.jpg folder/ "*.png" --checkpoint FILE`."""

import argparse

from mambaout_mm.errors import add_debug_argument, exit_with_a_sentence
from mambaout_mm.inference import infer
from mambaout_mm.trust import add_trust_argument


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('inputs', nargs='+', help='pictures, folders and quoted glob patterns')
    parser.add_argument('--checkpoint', required=True, help='checkpoint of a trained model')
    parser.add_argument(
        '--config',
        help='default: the config inside the checkpoint, which is read as data',
    )
    parser.add_argument('--out-dir', default='outputs', help='default: outputs')
    parser.add_argument('--device', help='default: the accelerator if there is one')
    parser.add_argument('--score-thr', type=float, default=0.3, help='default: 0.3')
    add_trust_argument(parser)
    add_debug_argument(parser)
    args = vars(parser.parse_args())
    with exit_with_a_sentence(args.pop('debug')):
        overlays = infer(**args)
        print(f'{len(overlays)} pictures with predictions in {args["out_dir"]}/overlays')


if __name__ == '__main__':
    main()
