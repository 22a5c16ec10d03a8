"""Time whole backbones with the C kernels, without them, and MambaOut against timm's.

`python benchmarks/native.py` compares both forms of each backbone first, lets them take turns in
one process, and writes medians with their spread to native.csv. With `--load` a second process
keeps all cores busy with matrix products meanwhile.
"""

import argparse
import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

import mambaout_mm  # noqa: F401  registers the backbones
from mambaout_mm.files import write_csv
from mambaout_mm.measure.complexity import count_macs
from mambaout_mm.measure.machine import machine, matmul_rate
from mambaout_mm.measure.parity import check_parity
from mambaout_mm.measure.timing import spread_of, take_turns
from mambaout_mm.ops import native
from mambaout_mm.ops.products import linear_layers_by_onednn
from mambaout_mm.speed.candidates import backbones as mambaout_and_timm

ROOT = Path(__file__).parents[1]
CSV_NAME = 'native.csv'
DTYPES = {'fp32': torch.float32, 'bf16': torch.bfloat16}
PASSES = ('inference', 'forward+backward')
NETWORKS = {
    'MambaOut-T': dict(type='mambaout_mm.MambaOut', arch='tiny'),
    'VMamba-T': dict(type='mambaout_mm.VMamba', arch='tiny_s1l8'),
    'LocalVMamba-T': dict(type='mambaout_mm.LocalVMamba', arch='tiny'),
    'Vim-S': dict(type='mambaout_mm.Vim', arch='small'),
    'PlainMamba-L2': dict(type='mambaout_mm.PlainMamba', arch='l2'),
    'EfficientVMamba-B': dict(type='mambaout_mm.EfficientVMamba', arch='base'),
    'LocalVim-S': dict(type='mambaout_mm.LocalVim', arch='small'),
}
# As many threads as there are cores; they end with the process that started them, even if killed.
LOAD = """import os, torch
a, parent = torch.randn(1024, 1024), os.getppid()
print(flush=True)
while os.getppid() == parent:
    a @ a
"""


def networks(name: str) -> dict[str, nn.Module]:
    """The backbone, and timm's with the same weights where it has one."""
    if name == 'MambaOut-T':
        return mambaout_and_timm('tiny')
    torch.manual_seed(0)
    return dict(ours=MODELS.build(dict(NETWORKS[name], channels_last=True)))


def call_of(
    model: nn.Module, image: Tensor, what: str, dtype: str, kernels: bool
) -> Callable[[], tuple[Tensor, ...]]:
    """Work to time, which returns the maps."""
    cotangents: list[Tensor] = []

    def forward() -> tuple[Tensor, ...]:
        with torch.autocast('cpu', torch.bfloat16, enabled=dtype == 'bf16'):
            return tuple(model(image))

    def run() -> tuple[Tensor, ...]:
        if what == 'inference':
            with torch.no_grad():
                return forward()
        model.zero_grad(set_to_none=True)
        outs = forward()
        if not cotangents:  # not ones: the gradient of a LayerNorm's sum is nothing but rounding
            generator = torch.Generator().manual_seed(2)
            cotangents.extend(torch.randn(x.shape, generator=generator).to(x.dtype) for x in outs)
        torch.autograd.backward(outs, cotangents)
        return tuple(x.detach() for x in outs)

    def without() -> tuple[Tensor, ...]:
        with native.off():
            return run()

    return run if kernels else without


def largest_error(found: tuple[Tensor, ...], exact: tuple[Tensor, ...]) -> float:
    """Largest difference, relative to each tensor's largest value."""
    return max(
        ((a.float() - b.float()).abs().max() / b.float().abs().max()).item()
        for a, b in zip(found, exact, strict=True)
    )


def benchmark(
    name: str,
    what: str,
    dtype: str,
    size: tuple[int, int],
    rounds: int,
    rate: float,
    loaded: bool = False,
) -> dict[str, object]:
    """A row: the backbone with and without C kernels, and timm's; beside a load if wanted."""
    models = networks(name)
    macs = count_macs(models['ours'].eval(), torch.zeros(1, 3, *size))
    for model in models.values():
        model.train(what != 'inference')
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(1, 3, *size, generator=generator)
    calls = {
        'native': call_of(models['ours'], image, what, dtype, kernels=True),
        'torch': call_of(models['ours'], image, what, dtype, kernels=False),
    }
    # Of a small image, gradients too. Those of a large one jump where the maximum of a pool moves.
    failed = check_parity(models['ours'].eval(), 'cpu', dtype)
    if failed:
        sys.exit(f'error: {name} in {dtype} {failed}; nothing is timed')
    models['ours'].train(what != 'inference')
    exact = call_of(models['ours'], image, what, 'fp32', kernels=False)()
    found, plain = (largest_error(calls[form](), exact) for form in ('native', 'torch'))
    if not found <= 2 * plain + 1e-4:
        sys.exit(f'error: {name} in {dtype} is wrong by {found:.1e}, without C kernels by '
                 f'{plain:.1e}; nothing is timed')  # fmt: skip
    if 'timm' in models:
        last = image.to(memory_format=torch.channels_last)
        calls['timm'] = call_of(models['timm'], image, what, dtype, kernels=True)
        calls['timm_channels_last'] = call_of(models['timm'], last, what, dtype, kernels=True)
    with load(loaded):
        turns = take_turns(calls, rounds, 'cpu')
    spreads = {form: spread_of(seconds) for form, seconds in turns.items()}
    row = dict(network=name, what=what, dtype=dtype, size='x'.join(map(str, size)), rounds=rounds)
    for form in ('native', 'torch', 'timm', 'timm_channels_last'):
        for field in ('median', 'p10', 'p90'):
            spread = spreads.get(form)
            row[f'{form}_ms_{field}'] = round(1e3 * getattr(spread, field), 2) if spread else ''
    row['torch_over_native'] = round(spreads['torch'].median / spreads['native'].median, 3)
    rivals = [spread.median for form, spread in spreads.items() if form.startswith('timm')]
    row['timm_over_native'] = round(min(rivals) / spreads['native'].median, 3) if rivals else ''
    flops = macs * (2 if what == 'inference' else 6)
    row['share_of_products'] = round(flops / rate / spreads['native'].median, 3)
    return row | dict(parity=f'{found:.1e}', product_gflop_per_s=round(rate / 1e9))


@contextmanager
def load(wanted: bool) -> Iterator[None]:
    """A second process on all cores, if wanted."""
    if not wanted:
        yield
        return
    with subprocess.Popen([sys.executable, '-c', LOAD], stdout=subprocess.PIPE) as process:
        try:
            process.stdout.readline()  # PyTorch is loaded
            yield
        finally:
            process.kill()


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark.

    Args:
        argv (list[str] | None): Arguments; those of the process where None. Defaults to None.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--networks', nargs='+', choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument('--what', nargs='+', choices=PASSES, default=list(PASSES))
    parser.add_argument('--dtypes', nargs='+', choices=DTYPES, default=['fp32'])
    parser.add_argument('--size', type=int, nargs=2, default=(512, 512), metavar=('H', 'W'))
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--load', action='store_true', help='beside a process on all cores')
    parser.add_argument(
        '--out',
        type=Path,
        default=Path(os.environ.get('OUT', ROOT / 'benchmarks' / 'results')),
        help=f'folder of {CSV_NAME} (default: $OUT, or benchmarks/results)',
    )
    args = parser.parse_args(argv)
    if args.rounds < 2:
        parser.error('--rounds must be at least 2')
    if native.kernels() is None:
        sys.exit(f'error: C kernels: {native.description()}')
    rates = {dtype: matmul_rate('cpu', DTYPES[dtype]) for dtype in args.dtypes}
    rows = []
    # As in comparisons: no network is to have the faster library alone, timm's neither.
    cases = itertools.product(args.networks, args.what, args.dtypes)
    with linear_layers_by_onednn():
        for name, what, dtype in cases:
            rate = rates[dtype]
            row = benchmark(name, what, dtype, tuple(args.size), args.rounds, rate, args.load)
            rows.append(row | dict(load=args.load) | machine('cpu'))
            print(*(f'{key}={x}' for key, x in rows[-1].items()), sep='  ', flush=True)
    write_csv(args.out / CSV_NAME, rows)


if __name__ == '__main__':
    main()
