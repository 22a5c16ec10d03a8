"""Train a config: `python tools/train.py configs/detection/maskrcnn_mambaout_t.py --amp`."""

import argparse

from mambaout_mm.compat.coco_evaluation import use_faster_coco_eval
from mambaout_mm.errors import exit_with_a_sentence
from mambaout_mm.training.arguments import parse_run_arguments
from mambaout_mm.training.interruption import SIGNALS
from mambaout_mm.training.run import train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='path of the config')
    parser.add_argument('--work-dir', help='logs and checkpoints; default work_dirs/<config>')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        help='go on from this checkpoint, or from the latest one in the work dir if none is named',
    )
    parser.add_argument('--amp', action='store_true', help='mixed precision (FP16), as the paper')
    parser.add_argument(
        '--demo',
        action='store_true',
        help='train on the small embedded data set: no download, a few minutes on a laptop',
    )
    parser.add_argument(
        '--save-on',
        choices=SIGNALS,
        metavar='SIGNAL',
        help='write a checkpoint and stop when this signal arrives, for schedulers that announce '
        f'the end of a job (sbatch --signal=USR1@120): {", ".join(SIGNALS)}',
    )
    args = parse_run_arguments(parser)
    use_faster_coco_eval()  # before anything imports pycocotools
    with exit_with_a_sentence(args.pop('debug')):
        train(**args)


if __name__ == '__main__':
    main()
