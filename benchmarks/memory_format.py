"""Time what a backbone's contiguous maps cost behind it, against maps left channels-last.

`python benchmarks/memory_format.py` builds Mask R-CNN and UperNet over MambaOut-T with random
weights, sees that both layouts give the same loss, lets them take turns in one process, and writes
medians with their spread to memory_format.csv.
"""

import argparse
import copy
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.runner import set_random_seed
from torch import nn

from mambaout_mm.files import write_csv
from mambaout_mm.measure.machine import machine
from mambaout_mm.measure.timing import spread_of, take_turns
from mambaout_mm.speed.whole_models import WHOLE_MODELS, build_random, find_model_config

ROOT = Path(__file__).parents[1]
CSV_NAME = 'memory_format.csv'
LAYOUTS = {'contiguous': False, 'channels_last': True}


class Images(NamedTuple):
    """Height and width of the images, and images per batch."""

    size: tuple[int, int]
    batch: int


IMAGES = {'maskrcnn': Images((384, 384), 1), 'upernet': Images((256, 256), 2)}


def model_of(name: str, arch: str, images: Images, device: str) -> nn.Module:
    """The model, with random weights and without stochastic depth."""
    cfg = Config.fromfile(find_model_config(name, arch))
    cfg.model.backbone.drop_path_rate = 0.0
    set_random_seed(0)
    return build_random(cfg, images.size).to(device)


def calls_of(
    name: str, model: nn.Module, images: Images, what: str
) -> dict[str, Callable[[], float]]:
    """For each layout an iteration, which returns the loss or a sum of results."""
    generator = torch.Generator().manual_seed(1)
    batch = WHOLE_MODELS[name].samples(images.batch, images.size, generator)
    training = what == 'forward+backward'

    def run(channels_last: bool) -> float:
        model.train(training)
        model.backbone.channels_last = channels_last
        torch.manual_seed(2)  # of the heads' samplers
        data = model.data_preprocessor(copy.deepcopy(batch), training=training)
        if not training:
            with torch.no_grad():
                outs = model(**data, mode='tensor')
            return float(first_tensor(outs).double().abs().sum())
        model.zero_grad(set_to_none=True)
        loss, _ = model.parse_losses(model(**data, mode='loss'))
        loss.backward()
        return float(loss.detach())

    return {name: lambda channels_last=value: run(channels_last) for name, value in LAYOUTS.items()}


def first_tensor(outs: object) -> torch.Tensor:
    """The first tensor in nested sequences."""
    return outs if isinstance(outs, torch.Tensor) else first_tensor(next(iter(outs)))


def benchmark(
    name: str, arch: str, images: Images, rounds: int, device: str
) -> list[dict[str, object]]:
    """Rows of one model: inference, and forward and backward, in both layouts."""
    model = model_of(name, arch, images, device)
    rows = []
    for what in ('inference', 'forward+backward'):
        calls = calls_of(name, model, images, what)
        found = {layout: call() for layout, call in calls.items()}
        parity = abs(found['contiguous'] / found['channels_last'] - 1)
        if not parity < 1e-3:
            sys.exit(f'error: {name} in {what} gives {found}; nothing is timed')
        times = take_turns(calls, rounds, device)
        spreads = {layout: spread_of(seconds) for layout, seconds in times.items()}
        for layout, spread in spreads.items():
            row = dict(model=name, arch=arch, what=what, size='x'.join(map(str, images.size)))
            row |= dict(batch=images.batch, layout=layout, rounds=rounds)
            row |= {f'{key}_ms': round(1e3 * x, 1) for key, x in spread._asdict().items()}
            row['over_channels_last'] = round(spread.median / spreads['channels_last'].median, 3)
            rows.append(row | dict(parity=f'{parity:.1e}') | machine(device))
            print(*(f'{key}={value}' for key, value in rows[-1].items()), sep='  ', flush=True)
    return rows


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark.

    Args:
        argv (list[str] | None): Arguments; those of the process where None. Defaults to None.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cpu')
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--models', nargs='+', choices=IMAGES, default=list(IMAGES))
    parser.add_argument('--arch', default='t', help="as in the configs' names (default: t)")
    parser.add_argument('--size', type=int, nargs=2, metavar=('HEIGHT', 'WIDTH'))
    parser.add_argument(
        '--out',
        type=Path,
        default=Path(os.environ.get('OUT', ROOT / 'benchmarks' / 'results')),
        help=f'folder of {CSV_NAME} (default: $OUT, or benchmarks/results)',
    )
    args = parser.parse_args(argv)
    if args.rounds < 2:
        parser.error('--rounds must be at least 2')
    if args.device == 'cuda' and not torch.cuda.is_available():
        sys.exit('error: no CUDA device is available to PyTorch')
    MMLogger.get_current_instance().setLevel('WARNING')  # a line for each initialised parameter
    rows = []
    for name in args.models:
        images = IMAGES[name]
        images = images._replace(size=tuple(args.size)) if args.size else images
        rows += benchmark(name, args.arch, images, args.rounds, args.device)
    write_csv(args.out / CSV_NAME, rows)


if __name__ == '__main__':
    main()
