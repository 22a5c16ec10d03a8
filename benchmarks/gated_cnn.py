"""Time the branch of a Gated CNN block against plain operations, and on CUDA its gate alone.

`python benchmarks/gated_cnn.py` checks parity with float64 first, then takes turns in one process
and writes medians with their spread to gated_cnn.csv. The gate's kernels also take turns with a
copy of the bytes that they must move.
"""

import argparse
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from mambaout_mm.files import write_csv
from mambaout_mm.measure.machine import machine
from mambaout_mm.measure.timing import spread_of, take_turns
from mambaout_mm.ops.gated_cnn import gated_cnn, plain_gate
from mambaout_mm.ops.gated_cnn.reference import gated_cnn_reference

ROOT = Path(__file__).parents[1]
CSV_NAME = 'gated_cnn.csv'
DTYPES = {'fp32': torch.float32, 'bf16': torch.bfloat16}
PASSES = ('forward', 'forward+backward')
PARTS = {'cpu': ['branch'], 'cuda': ['branch', 'gate']}


class Case(NamedTuple):
    """Height and width of the map, channels of the block and its convolution, and of the gate."""

    height: int
    width: int
    channels: int
    hidden: int


# MambaOut-T's stages at 800x1280, and stage 1 of Base: 341 channels, which 8 does not divide.
CASES = [
    Case(200, 320, 96, 256),
    Case(100, 160, 192, 512),
    Case(50, 80, 384, 1024),
    Case(25, 40, 576, 1536),
    Case(200, 320, 128, 341),
]


class Work(NamedTuple):
    """A pass over a part of the block.

    Attributes:
        op (Callable): This project's implementation; returns outputs, or outputs and gradients.
        plain (Callable): Plain operations of PyTorch; returns the same.
        inputs (list[Tensor]): Arguments of both, the output's gradient last.
        moved (int): Bytes that no implementation avoids moving; 0 if they are not counted.
    """

    op: Callable[..., tuple[Tensor, ...]]
    plain: Callable[..., tuple[Tensor, ...]]
    inputs: list[Tensor]
    moved: int


def random_source(dtype: torch.dtype, device: str) -> Callable[..., Tensor]:
    """A function that makes tensors of a shape, the same in each run."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    return random


def branch(case: Case, what: str, dtype: torch.dtype, device: str) -> Work:
    """The whole branch, differentiated by autograd."""
    height, width, channels, hidden = case
    random = random_source(dtype, device)
    inputs = [
        random(1, height, width, channels),
        random(channels),
        random(channels),
        random(2 * hidden, channels) / channels**0.5,
        random(2 * hidden),
        random(channels, 1, 7, 7) / 7,
        random(channels),
        random(channels, hidden) / hidden**0.5,
        random(channels),
        random(1, height, width, channels),
    ]

    def run(op: Callable[..., Tensor], *inputs: Tensor) -> tuple[Tensor, ...]:
        *tensors, grad_y = inputs
        if what == 'forward':
            with torch.no_grad():
                return (op(*tensors, 'gelu', 1e-6),)
        leaves = [x.detach().requires_grad_() for x in tensors]
        y = op(*leaves, 'gelu', 1e-6)
        return y.detach(), *torch.autograd.grad(y, leaves, grad_y)

    return Work(partial(run, gated_cnn), partial(run, gated_cnn_reference), inputs, 0)


def gate(case: Case, what: str, dtype: torch.dtype, device: str) -> Work:
    """The gate that the branch has on CUDA.

    No implementation avoids, forward, to read fc1's output and to write the gate; backward, to read
    fc1's output and the gate's gradient, to write fc1's gradient, and the gate once more.
    """
    from mambaout_mm.ops.gated_cnn import triton_gate

    height, width, channels, hidden = case
    random = random_source(dtype, device)
    inputs = [
        random(1, height, width, 2 * hidden),
        random(channels, 1, 7, 7) / 7,
        random(channels),
        random(1, height, width, hidden),
    ]

    def run(module: object, *inputs: Tensor) -> tuple[Tensor, ...]:
        *tensors, grad_gate = inputs
        result = module.forward(*tensors, hidden, 'gelu')
        if what == 'forward':
            return (result,)
        return module.backward(grad_gate, *tensors, hidden, 'gelu')

    moved = inputs[-1].nbytes * (3 if what == 'forward' else 3 + 6)
    return Work(partial(run, triton_gate), partial(run, plain_gate), inputs, moved)


WORK = {'branch': branch, 'gate': gate}


def errors(work: Work) -> tuple[float, float]:
    """Largest error of the operator and of plain operations, relative to the largest value."""
    truth = work.plain(*(x.double() for x in work.inputs))
    worst = []
    for call in (work.op, work.plain):
        results = zip(call(*work.inputs), truth, strict=True)
        worst.append(max(((a.double() - b).abs().max() / b.abs().max()).item() for a, b in results))
    return worst[0], worst[1]


def benchmark(work: Work, rounds: int, device: str) -> dict[str, object]:
    """Times of the operator, of plain operations, and of a copy of the bytes to move."""
    calls = {
        'op': lambda: work.op(*work.inputs),
        'plain': lambda: work.plain(*work.inputs),
    }
    if work.moved:
        # A copy reads and writes: half of the bytes each.
        source = torch.ones(work.moved // 2, dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
        calls['copy'] = lambda: target.copy_(source)
    times = take_turns(calls, rounds, device, warm_up=2)
    spreads = {name: spread_of(seconds) for name, seconds in times.items()}
    row: dict[str, object] = dict(rounds=rounds)
    for name in ('op', 'plain', 'copy'):
        for field in ('median', 'p10', 'p90'):
            spread = spreads.get(name)
            row[f'{name}_ms_{field}'] = round(1e3 * getattr(spread, field), 4) if spread else ''
    row['plain_over_op'] = round(spreads['plain'].median / spreads['op'].median, 3)
    copy = spreads.get('copy')
    row['share_of_copy_rate'] = round(copy.median / spreads['op'].median, 3) if copy else ''
    return row


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark.

    Args:
        argv (list[str] | None): Arguments; those of the process where None. Defaults to None.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--device', choices=PARTS, default='cpu')
    parser.add_argument('--rounds', type=int, default=9)
    parser.add_argument(
        '--case', type=int, nargs=4, metavar=Case._fields, help='only this size (default: five)'
    )
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
    rows = []
    for case in [Case(*args.case)] if args.case else CASES:
        for part in PARTS[args.device]:
            for name, dtype in DTYPES.items():
                # Float64 is slow; the operator's error does not depend on the height.
                small = case._replace(height=min(case.height, 32))
                found, plain = errors(WORK[part](small, PASSES[-1], dtype, args.device))
                if not found <= 2 * plain + 1e-6:
                    sys.exit(
                        f'error: {part} of {case} in {name} is wrong by {found:.1e}, plain '
                        f'operations by {plain:.1e}; nothing is timed'
                    )
                for what in PASSES:
                    work = WORK[part](case, what, dtype, args.device)
                    row = dict(part=part) | case._asdict() | dict(what=what, dtype=name)
                    row |= benchmark(work, args.rounds, args.device)
                    rows.append(row | dict(parity=f'{found:.1e}') | machine(args.device))
                    print(*(f'{key}={value}' for key, value in rows[-1].items()), sep='  ')
    write_csv(args.out / CSV_NAME, rows)


if __name__ == '__main__':
    main()
