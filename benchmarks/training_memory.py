"""Count what a training iteration keeps in memory, for each setting of docs/recipes.md.

`python benchmarks/training_memory.py` builds Mask R-CNN and UperNet over MambaOut-T with random
weights, runs the forward pass of a training iteration on the CPU, and counts the bytes that are
kept for the backward pass; parameters, their gradients and AdamW's two averages are added. What
operators take while they run, cuDNN's workspaces and CUDA's own context come on top. With `--device
cuda` whole iterations run, and the peak that PyTorch allocates is a column, too. It writes
training_memory.csv.
"""

import argparse
import copy
import gc
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
from mambaout_mm.measure.memory import bytes_kept
from mambaout_mm.speed.whole_models import WHOLE_MODELS, build_random, find_model_config

ROOT = Path(__file__).parents[1]
CSV_NAME = 'training_memory.csv'
# Images, and how many at once: UperNet's batch normalisation needs two.
IMAGES = {'maskrcnn': ((800, 1280), (1, 2)), 'upernet': ((512, 512), (2, 4))}


class Setting(NamedTuple):
    """What a training saves memory by.

    Attributes:
        amp (bool): Mixed precision.
        with_cp (bool): Activation checkpointing of the backbone.
        frozen_stages (int): As the backbone takes it. Defaults to -1.
    """

    amp: bool
    with_cp: bool
    frozen_stages: int = -1


SETTINGS = (
    Setting(amp=False, with_cp=False),
    Setting(amp=False, with_cp=True),
    Setting(amp=True, with_cp=False),
    Setting(amp=True, with_cp=True),
    Setting(amp=True, with_cp=True, frozen_stages=2),
)


def count(
    name: str, setting: Setting, size: tuple[int, int], batch: int, device: str
) -> dict[str, object]:
    """A row: megabytes of one setting."""
    cfg = Config.fromfile(find_model_config(name, 't'))
    cfg.model.backbone.update(with_cp=setting.with_cp, frozen_stages=setting.frozen_stages)
    set_random_seed(0)
    model = build_random(cfg, size).to(device).train()
    samples = WHOLE_MODELS[name].samples(batch, size, torch.Generator().manual_seed(1))

    def loss() -> torch.Tensor:
        torch.manual_seed(2)  # of the heads' samplers
        data = model.data_preprocessor(copy.deepcopy(samples), training=True)
        with torch.autocast(device, torch.bfloat16, enabled=setting.amp):
            return model.parse_losses(model(**data, mode='loss'))[0]

    kept = bytes_kept(loss, model)
    params = [p.numel() * p.element_size() for p in model.parameters()]
    trained = [p.numel() * p.element_size() for p in model.parameters() if p.requires_grad]
    fixed = sum(params) + 3 * sum(trained)  # gradients, and AdamW's two averages
    return dict(
        model=name,
        size='x'.join(map(str, size)),
        batch=batch,
        **setting._asdict(),
        kept_mb=round(kept / 1e6),
        weights_and_optimizer_mb=round(fixed / 1e6),
        together_mb=round((kept + fixed) / 1e6),
        peak_mb=round(peak(loss, model) / 1e6) if device == 'cuda' else '',
    )


def peak(loss: Callable[[], torch.Tensor], model: nn.Module) -> int:
    """Most bytes that two iterations allocate on the CUDA device, AdamW's step included."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.0, fused=True)
    torch.cuda.reset_peak_memory_stats()
    for _ in range(2):  # the averages are there from the second on
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        optimizer.step()
    return torch.cuda.max_memory_allocated()


def main(argv: list[str] | None = None) -> None:
    """Count.

    Args:
        argv (list[str] | None): Arguments; those of the process where None. Defaults to None.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cpu')
    parser.add_argument('--models', nargs='+', choices=IMAGES, default=list(IMAGES))
    parser.add_argument('--batches', nargs='+', type=int)
    parser.add_argument('--size', type=int, nargs=2, metavar=('HEIGHT', 'WIDTH'))
    parser.add_argument(
        '--out',
        type=Path,
        default=Path(os.environ.get('OUT', ROOT / 'benchmarks' / 'results')),
        help=f'folder of {CSV_NAME} (default: $OUT, or benchmarks/results)',
    )
    args = parser.parse_args(argv)
    if args.batches and min(args.batches) < 1:
        parser.error('--batches must be at least 1')
    if args.device == 'cuda' and not torch.cuda.is_available():
        sys.exit('error: no CUDA device is available to PyTorch')
    MMLogger.get_current_instance().setLevel('WARNING')  # a line for each initialised parameter
    rows = []
    for name in args.models:
        size, batches = IMAGES[name]
        size = tuple(args.size) if args.size else size
        for batch in args.batches or batches:
            for setting in SETTINGS:
                rows.append(count(name, setting, size, batch, args.device) | machine(args.device))
                print(*(f'{k}={v}' for k, v in list(rows[-1].items())[:9]), sep='  ', flush=True)
                gc.collect()
    write_csv(args.out / CSV_NAME, rows)


if __name__ == '__main__':
    main()
