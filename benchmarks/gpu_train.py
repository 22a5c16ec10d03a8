"""Train a detector and a segmentor for a few iterations and measure time and memory.

`python benchmarks/gpu_train.py` needs a CUDA device and no data set: random weights, and synthetic
images with something in them to learn, in a few batches that repeat so that the loss must fall.
"""

import argparse
import csv
import os
import statistics
import sys
import time
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.runner import set_random_seed
from torch import nn

from mambaout_mm.measure.timing import Spread, spread_of
from mambaout_mm.speed.whole_models import WHOLE_MODELS, build_random, find_model_config

ROOT = Path(__file__).parents[1]
CSV_NAME = 'gpu_train.csv'
BATCHES = 2
# The loss is compared between this many iterations at the start and at the end.
ENDS = 5
# cuDNN chooses its algorithms and the allocator grows during the first iterations.
WARM_UP = 10


class Losses(NamedTuple):
    """Mean loss of the first and of the last iterations."""

    first: float
    last: float


class Task(NamedTuple):
    """One of the two benchmarks.

    Attributes:
        model (str): 'maskrcnn' or 'upernet', over MambaOut-T by default.
        size (tuple[int, int]): Height and width of the images.
        batch (int): Images per batch.
    """

    model: str
    size: tuple[int, int]
    batch: int


TASKS = {
    'detection': Task('maskrcnn', (800, 1280), 2),
    'segmentation': Task('upernet', (512, 512), 4),
}


def training_model(
    cfg: Config, size: tuple[int, int], device: str, amp: bool
) -> tuple[nn.Module, OptimWrapper]:
    """The config's model with random weights and its optimizer, set up as for a training run.

    Args:
        cfg (Config): Changed in place.
        size (tuple[int, int]): Height and width of the images.
        device (str): Where the model trains.
        amp (bool): Mixed precision: float16 with dynamic loss scaling.

    Returns:
        tuple[nn.Module, OptimWrapper]: The model in training mode and its optimizer wrapper.
    """
    torch.backends.cudnn.benchmark = cfg.env_cfg.cudnn_benchmark
    model = build_random(cfg, size).to(device).train()
    if amp:
        cfg.optim_wrapper.update(type='AmpOptimWrapper', loss_scale='dynamic', dtype='float16')
    return model, build_optim_wrapper(model, cfg.optim_wrapper)


def train(
    model: nn.Module, optim_wrapper: OptimWrapper, batches: list[dict], iterations: int, device: str
) -> tuple[Losses, Spread]:
    """Train on the batches in turn.

    An iteration is what a training loop does with a loaded batch: moving and normalising it,
    forward, backward, optimizer step.

    Args:
        model (nn.Module): In training mode.
        optim_wrapper (OptimWrapper): Its optimizer.
        batches (list[dict]): Repeated for as long as it takes.
        iterations (int): Number of iterations.
        device (str): Where the model is.

    Returns:
        tuple[Losses, Spread]: What happened to the loss, and the times.
    """

    def wait() -> None:
        if device == 'cuda':
            torch.cuda.synchronize()

    losses, seconds = [], []
    for data in islice(cycle(batches), iterations):
        wait()
        start = time.perf_counter()
        log = model.train_step(data, optim_wrapper)
        wait()
        seconds.append(time.perf_counter() - start)
        losses.append(float(log['loss'].detach()))
    return (
        Losses(statistics.mean(losses[:ENDS]), statistics.mean(losses[-ENDS:])),
        spread_of(seconds[WARM_UP:]),
    )


def benchmark(task: str, config: Path, args: argparse.Namespace) -> dict[str, object]:
    """Train one model.

    Args:
        task (str): A key of ``TASKS``.
        config (Path): The config.
        args (argparse.Namespace): The command line.

    Returns:
        dict[str, object]: A row of the table.
    """
    cuda = args.device == 'cuda'
    size = tuple(args.size or TASKS[task].size)
    batch = args.batch or TASKS[task].batch
    set_random_seed(0)
    generator = torch.Generator().manual_seed(0)
    samples = WHOLE_MODELS[TASKS[task].model].samples
    batches = [samples(batch, size, generator) for _ in range(BATCHES)]
    model, optim_wrapper = training_model(Config.fromfile(config), size, args.device, args.amp)
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    losses, timings = train(model, optim_wrapper, batches, args.iterations, args.device)
    return dict(
        model=config.stem,
        task=task,
        size=f'{size[0]}x{size[1]}',
        batch=batch,
        dtype='float16-amp' if args.amp else 'float32',
        iterations=args.iterations,
        loss_first=round(losses.first, 4),
        loss_last=round(losses.last, 4),
        sec_per_iter_median=round(timings.median, 5),
        sec_per_iter_p10=round(timings.p10, 5),
        sec_per_iter_p90=round(timings.p90, 5),
        peak_memory_gb=round(torch.cuda.max_memory_allocated() / 1e9, 3) if cuda else '',
        device=torch.cuda.get_device_name() if cuda else 'cpu',
        torch=torch.__version__,
        cuda=torch.version.cuda if cuda else '',
    )


def append_row(path: Path, row: dict[str, object]) -> None:
    """Add a row to the table, which gets its header with the first one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('a', newline='') as file:
        writer = csv.DictWriter(file, row)
        if not file.tell():
            writer.writeheader()
        writer.writerow(row)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--task', choices=TASKS, help='only this one (default: both)')
    for name, task in TASKS.items():
        parser.add_argument(
            f'--{name}-config', type=Path, default=find_model_config(task.model, 't')
        )
    parser.add_argument('--device', choices=['cuda', 'cpu'], default='cuda')
    parser.add_argument('--iterations', type=int, default=30)
    parser.add_argument(
        '--size',
        type=int,
        nargs=2,
        metavar=('HEIGHT', 'WIDTH'),
        help='default: 800 1280 for detection, 512 512 for segmentation',
    )
    parser.add_argument(
        '--batch', type=int, help='default: 2 for detection, 4 for segmentation; there at least 2'
    )
    parser.add_argument(
        '--no-amp', dest='amp', action='store_false', help='float32 instead of mixed precision'
    )
    parser.add_argument(
        '--out',
        type=Path,
        default=Path(os.environ.get('OUT', ROOT / 'benchmarks' / 'results')),
        help=f'folder of {CSV_NAME} (default: $OUT, or benchmarks/results)',
    )
    args = parser.parse_args(argv)
    if args.iterations < WARM_UP + 2:
        parser.error(f'--iterations must be at least {WARM_UP + 2}: {WARM_UP} are for warming up')
    if args.device == 'cpu' and args.amp:
        parser.error("--device cpu needs --no-amp: mmengine's mixed precision is for GPUs")
    if args.device == 'cuda' and not torch.cuda.is_available():
        sys.exit('error: no CUDA device is available to PyTorch')
    if args.batch == 1 and args.task != 'detection':
        # The pyramid pooling of UperNet normalises maps of one pixel over the batch.
        parser.error('--batch 1 is for --task detection only: UperNet trains on 2 or more')
    return args


def main(argv: list[str] | None = None) -> None:
    """Run the benchmarks.

    Args:
        argv (list[str] | None): Arguments; those of the process where None. Defaults to None.
    """
    args = parse(argv)
    # The optimizer's constructor logs three lines for every parameter of a norm.
    MMLogger.get_instance('benchmark', log_level='WARNING')
    for task in [args.task] if args.task else TASKS:
        row = benchmark(task, getattr(args, f'{task}_config'), args)
        append_row(args.out / CSV_NAME, row)
        print(*(f'{key}={value}' for key, value in row.items()), sep='  ')
        # Written this way, a loss that is not a number fails, too.
        if not row['loss_last'] < row['loss_first']:
            sys.exit(f'error: the loss of {task} did not fall')


if __name__ == '__main__':
    main()
