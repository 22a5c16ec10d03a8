"""Predict on pictures: `python tools/infer.py photo.jpg folder/ "*.png" --checkpoint FILE`."""

import argparse

from mambaout_mm.errors import exit_on_user_error
from mambaout_mm.inference import infer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('inputs', nargs='+', help='pictures, folders and quoted glob patterns')
    parser.add_argument('--checkpoint', required=True, help='checkpoint of a trained model')
    parser.add_argument(
        '--config',
        help='default: the config inside the checkpoint, which is Python code: name one for '
        'checkpoints that you do not trust',
    )
    parser.add_argument('--out-dir', default='outputs', help='default: outputs')
    parser.add_argument('--device', help='default: the accelerator if there is one')
    parser.add_argument('--score-thr', type=float, default=0.3, help='default: 0.3')
    args = parser.parse_args()
    with exit_on_user_error():
        overlays = infer(**vars(args))
        print(f'{len(overlays)} pictures with predictions in {args.out_dir}/overlays')


if __name__ == '__main__':
    main()
