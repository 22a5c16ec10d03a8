"""Time the selective scan: on a CPU against slower ways to compute it, on CUDA against copying.

`python benchmarks/selective_scan.py` checks parity first, then takes turns between them in one
process and writes medians with their spread to selective_scan.csv.
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch
from torch import Tensor

from mambaout_mm.files import write_csv
from mambaout_mm.measure.machine import machine
from mambaout_mm.measure.timing import spread_of, take_turns
from mambaout_mm.ops import selective_scan as operator
from mambaout_mm.ops.native import kernels
from mambaout_mm.ops.selective_scan import blocked, selective_scan
from mambaout_mm.ops.selective_scan.reference import selective_scan_reference

ROOT = Path(__file__).parents[1]
CSV_NAME = 'selective_scan.csv'
GROUPS = 4  # the directions of VMamba
PARITY_LENGTH = 2000  # a plain loop's gradients at full length take gigabytes
LOOP_LENGTH = 16000  # the longest sequence that the plain loop is timed on


class Case(NamedTuple):
    """One size: sequence length, channels of all groups, states."""

    length: int
    channels: int
    state: int


CASES = {
    'cpu': [Case(64000, 384, 1), Case(16000, 384, 1), Case(4000, 384, 16)],
    'cuda': [Case(64000, 384, 1), Case(16000, 768, 1), Case(4000, 384, 16)],
}


def inputs_of(case: Case, dtype: torch.dtype, device: str) -> list[Tensor]:
    """Arguments of `selective_scan` with channels last in memory, as VMamba passes them."""
    torch.manual_seed(0)
    length, channels, state = case

    def sequence() -> Tensor:  # (1, G, D, L) of memory (1, G, L, D)
        values = torch.randn(1, GROUPS, length, channels // GROUPS, device=device)
        return values.to(dtype).transpose(2, 3)

    return [
        sequence(),
        sequence(),
        -0.1 - torch.rand(channels, state, device=device),
        torch.randn(1, GROUPS, state, length, device=device).to(dtype),
        torch.randn(1, GROUPS, state, length, device=device).to(dtype),
        torch.randn(channels, device=device),
        torch.randn(channels, device=device) - 3,
    ]


def cotangent_of(inputs: list[Tensor]) -> Tensor:
    """What the gradients start from: dense, as a network's is."""
    torch.manual_seed(1)
    dtype = torch.promote_types(inputs[0].dtype, torch.float32)
    return torch.randn_like(inputs[0], dtype=dtype)


def gradients(
    scan: Callable[..., Tensor], inputs: list[Tensor], cotangent: Tensor
) -> tuple[Tensor, ...]:
    leaves = [x.detach().requires_grad_() for x in inputs]
    return torch.autograd.grad(scan(*leaves), leaves, cotangent)


def forward(scan: Callable[..., Tensor], inputs: list[Tensor], cotangent: Tensor) -> tuple[Tensor]:
    with torch.no_grad():
        return (scan(*inputs),)


def check_parity(case: Case, dtype: torch.dtype, device: str) -> float:
    """Largest relative error of output and gradients against float64.

    At the timed length on CUDA, where float64 is what the CPU's blocks give; on a CPU, compared
    with the plain loop, at no more than `PARITY_LENGTH`.
    """
    plain = device == 'cpu'
    if plain:
        case = case._replace(length=min(case.length, PARITY_LENGTH))
    inputs = inputs_of(case, dtype, device)
    exact = [x.double().cpu() for x in inputs]
    cotangent = cotangent_of(inputs)
    errors = []
    for run in (forward, gradients):
        ours = run(selective_scan, inputs, cotangent)
        truth = selective_scan_reference if plain else selective_scan
        theirs = run(truth, exact, cotangent.double().cpu())
        for a, b in zip(ours, theirs, strict=True):
            errors.append(((a.double().cpu() - b).abs().max() / b.abs().max()).item())
    return max(errors)


def with_blocks(call: Callable[[], object]) -> object:
    """A call in which the scan is blocks of PyTorch's operations, as without a C compiler."""
    with mock.patch.object(operator, '_implementation', lambda u: blocked):
        return call()


def benchmark(
    case: Case, what: str, dtype: torch.dtype, rounds: int, device: str
) -> list[dict[str, object]]:
    """The scan, and what it is compared with: a row for each, with their ratio.

    On a CPU that is blocks of PyTorch's operations, where the scan is C kernels, and the plain
    recurrence, up to a length of `LOOP_LENGTH`. On CUDA it is a copy of as many bytes as have to
    move in two passes over the sequence, one for the chunks' ends and one for the result. Forward:
    u and delta twice, y once. Backward: grad_y and delta, then grad_y, u and delta again, and
    grad_u and grad_delta. y and grad_y are float32. B, C and the chunks' states are left out: they
    are small.
    """
    inputs = inputs_of(case, dtype, device)
    cotangent = cotangent_of(inputs)
    run = forward if what == 'forward' else gradients
    calls = {'scan': lambda: run(selective_scan, inputs, cotangent)}
    if device == 'cpu':
        if kernels() is not None:
            calls['blocked'] = lambda: with_blocks(calls['scan'])
        if case.length <= LOOP_LENGTH:
            calls['loop'] = lambda: run(selective_scan_reference, inputs, cotangent)
    else:
        size = inputs[0].element_size()
        moved = 4 * size + 4
        if what != 'forward':
            moved += (1 + 2 + 2) * size + 2 * 4
        # A copy reads and writes: half of the bytes each.
        source = torch.empty(moved * inputs[0].numel() // 2, dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
        calls['copy'] = lambda: target.copy_(source)
    spreads = {k: spread_of(v) for k, v in take_turns(calls, rounds, device).items()}
    scan = spreads.pop('scan')
    rows = []
    for compared_with, other in spreads.items():
        row = dict(length=case.length, channels=case.channels, state=case.state, what=what)
        row |= dict(dtype=str(dtype).removeprefix('torch.'), compared_with=compared_with)
        row['rounds'] = rounds
        for name, spread in dict(scan=scan, other=other).items():
            row[f'{name}_ms_median'] = round(1e3 * spread.median, 4)
            row[f'{name}_ms_p10'] = round(1e3 * spread.p10, 4)
            row[f'{name}_ms_p90'] = round(1e3 * spread.p90, 4)
        row['other_over_scan'] = round(row['other_ms_median'] / row['scan_ms_median'], 3)
        rows.append(row)
    return rows


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark.

    Args:
        argv (list[str] | None): Arguments; those of the process where None. Defaults to None.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cpu')
    parser.add_argument('--rounds', type=int, default=9)
    parser.add_argument(
        '--case',
        type=int,
        nargs=3,
        metavar=Case._fields,
        help='only this size (default: those of the device)',
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
    dtypes = [torch.float32] if args.device == 'cpu' else [torch.float32, torch.bfloat16]
    rows = []
    for case in [Case(*args.case)] if args.case else CASES[args.device]:
        for dtype in dtypes:
            error = check_parity(case, dtype, args.device)
            if not error < (1e-4 if dtype == torch.float32 else 2e-2):
                sys.exit(f'error: {case} in {dtype} is wrong by {error:.1e}; nothing is timed')
            for what in ('forward', 'forward+backward'):
                for row in benchmark(case, what, dtype, args.rounds, args.device):
                    rows.append(row | dict(parity=f'{error:.1e}') | machine(args.device))
                    print(*(f'{key}={value}' for key, value in rows[-1].items()), sep='  ')
    write_csv(args.out / CSV_NAME, rows)


if __name__ == '__main__':
    main()
