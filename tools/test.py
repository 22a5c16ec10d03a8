"""Evaluate a checkpoint: `python tools/test.py CONFIG CHECKPOINT`, AP or mIoU."""

import argparse

from mambaout_mm.compat.coco_evaluation import use_faster_coco_eval
from mambaout_mm.errors import exit_with_a_sentence
from mambaout_mm.training.arguments import parse_run_arguments
from mambaout_mm.training.run import test


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='path of the config')
    parser.add_argument(
        'checkpoint', help='path, URL or catalogue name of the checkpoint, or an .onnx file'
    )
    parser.add_argument('--work-dir', help='logs; default work_dirs/<config>')
    parser.add_argument(
        '--tta', action='store_true', help='multi-scale and flip (segmentation): mIoU MS'
    )
    parser.add_argument(
        '--out',
        help='write all predictions to this .npz file; a .pkl file is for tools of mmdet that read '
        'it',
    )
    parser.add_argument('--show-dir', help='write pictures of truth and prediction to this folder')
    args = parse_run_arguments(parser)
    use_faster_coco_eval()  # before anything imports pycocotools
    with exit_with_a_sentence(args.pop('debug')):
        test(**args)


if __name__ == '__main__':
    main()
