"""Time the gated convolution against plain operations and against a copy of the bytes it must move.

`python benchmarks/gated_conv.py` checks parity with float64 first, then takes turns in one process
and writes medians with their spread to gated_conv.csv.
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from mambaout_mm.files import write_csv
from mambaout_mm.measure.timing import machine, spread_of, take_turns
from mambaout_mm.ops.gated_conv import gated_conv
from mambaout_mm.ops.gated_conv.reference import gated_conv_reference

ROOT = Path(__file__).parents[1]
CSV_NAME = 'gated_conv.csv'
DTYPES = {'fp32': torch.float32, 'bf16': torch.bfloat16}


class Case(NamedTuple):
    """Height and width of the map, and channels: of the block, of the gate."""

    height: int
    width: int
    channels: int
    hidden: int


# MambaOut-T's stages at 800x1280, and stage 1 of Base, which 8 does not divide: 341 and as padded.
CASES = [
    Case(200, 320, 96, 256),
    Case(100, 160, 192, 512),
    Case(50, 80, 384, 1024),
    Case(25, 40, 576, 1536),
    Case(200, 320, 128, 341),
    Case(200, 320, 128, 344),
]


def inputs_of(case: Case, dtype: torch.dtype, device: str) -> list[Tensor]:
    """fc1's output, the convolution's weight and bias, and a cotangent."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device, dtype)

    height, width, channels, hidden = case
    return [
        random(1, height, width, 2 * hidden),
        random(channels, 1, 7, 7) / 7,
        random(channels),
        random(1, height, width, hidden),
    ]


def forward(op: Callable[..., Tensor], inputs: list[Tensor], hidden: int) -> tuple[Tensor]:
    with torch.no_grad():
        return (op(*inputs[:3], hidden, 'gelu'),)


def gradients(op: Callable[..., Tensor], inputs: list[Tensor], hidden: int) -> tuple[Tensor, ...]:
    leaves = [x.detach().requires_grad_() for x in inputs[:3]]
    return torch.autograd.grad(op(*leaves, hidden, 'gelu'), leaves, inputs[3])


def errors(case: Case, inputs: list[Tensor]) -> tuple[float, float]:
    """Largest relative error of output and gradients: of the operator, and of plain operations."""
    exact = [x.double() for x in inputs]
    worst = [0.0, 0.0]
    for run in (forward, gradients):
        truth = run(gated_conv_reference, exact, case.hidden)
        for i, op in enumerate((gated_conv, gated_conv_reference)):
            for a, b in zip(run(op, inputs, case.hidden), truth, strict=True):
                worst[i] = max(worst[i], ((a.double() - b).abs().max() / b.abs().max()).item())
    return worst[0], worst[1]


def benchmark(case: Case, what: str, dtype: str, rounds: int, device: str) -> dict[str, object]:
    """One row.

    The copy moves what no implementation avoids: forward, x in and y out; forward and backward,
    that and x and grad_y in and grad_x out.
    """
    inputs = inputs_of(case, DTYPES[dtype], device)
    run = forward if what == 'forward' else gradients
    elements = inputs[3].numel() * (3 if what == 'forward' else 8)
    # A copy reads and writes: half of the bytes each.
    source = torch.ones(elements * inputs[0].element_size() // 2, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    times = take_turns(
        {
            'op': lambda: run(gated_conv, inputs, case.hidden),
            'plain': lambda: run(gated_conv_reference, inputs, case.hidden),
            'copy': lambda: target.copy_(source),
        },
        rounds,
        device,
        warm_up=2,
    )
    row = dict(zip(Case._fields, case, strict=True)) | dict(what=what, dtype=dtype, rounds=rounds)
    spreads = {name: spread_of(seconds) for name, seconds in times.items()}
    for name, spread in spreads.items():
        for field, seconds in zip(spread._fields, spread, strict=True):
            row[f'{name}_ms_{field}'] = round(1e3 * seconds, 4)
    row['plain_over_op'] = round(spreads['plain'].median / spreads['op'].median, 3)
    row['share_of_copy_rate'] = round(spreads['copy'].median / spreads['op'].median, 3)
    return row


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark.

    Args:
        argv (list[str] | None): Arguments; those of the process where None. Defaults to None.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cpu')
    parser.add_argument('--rounds', type=int, default=9)
    parser.add_argument(
        '--case', type=int, nargs=4, metavar=Case._fields, help='only this size (default: six)'
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
        for dtype in DTYPES:
            # Float64 is slow; the operator's error does not depend on the height.
            small = case._replace(height=min(case.height, 32))
            found, plain = errors(small, inputs_of(small, DTYPES[dtype], args.device))
            if not found <= 2 * plain + 1e-6:
                sys.exit(
                    f'error: {case} in {dtype} is wrong by {found:.1e}, plain operations by '
                    f'{plain:.1e}; nothing is timed'
                )
            for what in ('forward', 'forward+backward'):
                row = benchmark(case, what, dtype, args.rounds, args.device)
                rows.append(row | dict(parity=f'{found:.1e}') | machine(args.device))
                print(*(f'{key}={value}' for key, value in rows[-1].items()), sep='  ')
    write_csv(args.out / CSV_NAME, rows)


if __name__ == '__main__':
    main()
