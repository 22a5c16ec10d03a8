"""Time a file of tools/export.py beside the checkpoint that it was made of.

`python benchmarks/exported.py CONFIG CHECKPOINT FILE.onnx` takes images of the config's test set,
sees that both find the same in them, lets both take turns in one process, and writes medians with
their spread to exported.csv. Both do the whole work on a CPU: from an image's pixels to labels of
the image's size, or to boxes and masks.
"""

import argparse
import copy
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mmengine.config import DictAction
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

from mambaout_mm.checkpoints import checkpoints_are_data
from mambaout_mm.errors import exit_with_a_sentence
from mambaout_mm.files import write_csv
from mambaout_mm.measure.complexity import build_model
from mambaout_mm.measure.machine import machine
from mambaout_mm.measure.timing import spread_of, take_turns
from mambaout_mm.training.checks import check_fits, load_config
from mambaout_mm.training.onnx_model import OnnxModel
from mambaout_mm.training.options import merge_options

ROOT = Path(__file__).parents[1]
CSV_NAME = 'exported.csv'


def same_findings(ours: Any, theirs: Any) -> bool:
    """Whether two predictions for an image agree but for rounding."""
    if 'pred_sem_seg' in ours:
        return (ours.pred_sem_seg.data == theirs.pred_sem_seg.data).float().mean() > 0.999
    ours, theirs = ours.pred_instances, theirs.pred_instances
    return (
        len(ours) == len(theirs)
        and torch.equal(ours.labels, theirs.labels)
        and torch.allclose(ours.scores, theirs.scores, atol=1e-3)
        and torch.allclose(ours.bboxes, theirs.bboxes, rtol=0, atol=0.1)  # pixels
    )


def benchmark(model: Any, onnx_model: OnnxModel, batches: list[dict], rounds: int) -> list[dict]:
    """A row for PyTorch and one for onnxruntime; a time is the mean over the images."""

    def run(of: Any) -> list[Any]:
        with torch.inference_mode():
            return [of.test_step(copy.deepcopy(batch))[0] for batch in batches]

    ways: dict[str, Callable[[], list[Any]]] = {
        'PyTorch': lambda: run(model),
        'onnxruntime': lambda: run(onnx_model),
    }
    found = {name: way() for name, way in ways.items()}
    for i, (ours, theirs) in enumerate(zip(*found.values(), strict=True)):
        if not same_findings(ours, theirs):
            sys.exit(f'error: PyTorch and onnxruntime disagree about image {i}; nothing is timed')
    times = take_turns(ways, rounds, 'cpu')
    spreads = {name: spread_of([t / len(batches) for t in times[name]]) for name in ways}
    detector = 'pred_instances' in found['PyTorch'][0]
    objects = sum(len(x.pred_instances) for x in found['PyTorch']) if detector else ''
    rows = []
    for name, spread in spreads.items():
        row = dict(by=name, size='x'.join(map(str, batches[0]['inputs'][0].shape[1:])))
        row |= dict(images=len(batches), objects=objects, rounds=rounds)
        row |= {f'{key}_s': round(x, 4) for key, x in spread._asdict().items()}
        row['over_pytorch'] = round(spread.median / spreads['PyTorch'].median, 3)
        rows.append(row)
    return rows


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark.

    Args:
        argv (list[str] | None): Arguments; those of the process where None. Defaults to None.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='path of the config')
    parser.add_argument('checkpoint', help='path, URL or catalogue name of the checkpoint')
    parser.add_argument('onnx', help='what tools/export.py wrote of both')
    parser.add_argument('--images', type=int, default=5)
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={})
    parser.add_argument(
        '--out',
        type=Path,
        default=Path(os.environ.get('OUT', ROOT / 'benchmarks' / 'results')),
        help=f'folder of {CSV_NAME} (default: $OUT, or benchmarks/results)',
    )
    args = parser.parse_args(argv)
    if args.rounds < 2 or args.images < 1:
        parser.error('--rounds must be at least 2, --images at least 1')
    MMLogger.get_current_instance().setLevel('WARNING')  # a line for each initialised parameter
    cfg = load_config(args.config)
    merge_options(cfg, args.cfg_options)
    loader = dict(cfg.test_dataloader, batch_size=1, num_workers=0, persistent_workers=False)
    loader['dataset'] = dict(loader['dataset'], indices=args.images)
    model = build_model(cfg)
    with checkpoints_are_data():
        model.load_state_dict(check_fits(model, args.checkpoint))
    task = 'segmentation' if cfg.default_scope == 'mmseg' else 'detection'
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        batches = list(Runner.build_dataloader(loader))
    rows = benchmark(model.eval(), OnnxModel(args.onnx, task), batches, args.rounds)
    rows = [dict(config=Path(args.config).stem) | row | machine('cpu') for row in rows]
    for row in rows:
        print(*(f'{key}={value}' for key, value in row.items()), sep='  ', flush=True)
    write_csv(args.out / CSV_NAME, rows)


if __name__ == '__main__':
    with exit_with_a_sentence():
        main()
