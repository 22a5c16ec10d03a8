"""The scan's Triton kernels: in Triton's interpreter, compiled without a GPU, and on a GPU.

The interpreter has to be chosen before Triton is imported, and to compile for a GPU that is not
there, Triton has to take it for the device. Both happen in processes of their own, all at once:
pytest on the functions ``check_*`` of this file, and this file as a script, once for each target.
"""

import importlib
import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[3]
NAMES = ('u', 'delta', 'A', 'B', 'C', 'D', 'delta_bias')

triton = pytest.importorskip('triton', minversion='3.3')

from support_triton import (  # noqa: E402
    CUOBJDUMP,
    TARGETS,
    compile_at_launch,
    start_processes,
    usage_of,
)


def load_scan():
    """Kernels and plain recurrence, without the package around them, which takes long to import."""
    package = types.ModuleType('scan_alone')
    package.__path__ = [str(ROOT / 'mambaout_mm' / 'ops' / 'selective_scan')]
    sys.modules['scan_alone'] = package
    reference = importlib.import_module('scan_alone.reference')
    return importlib.import_module('scan_alone.triton'), reference.selective_scan_reference


def random_inputs(batch, groups, channels, state, length, layout, device='cpu'):
    """u, delta, A, B, C, D, delta_bias and a cotangent, as the kernels take them."""
    torch.manual_seed(0)

    def series(channels_last):
        if channels_last:
            x = torch.randn(batch, length, groups, channels, device=device)
            return x.permute(0, 2, 3, 1)
        return torch.randn(batch, groups, channels, length, device=device)

    def shared():
        if layout == 'length last':
            return torch.randn(batch, groups, state, length, device=device)
        return torch.randn(batch, length, groups, state, device=device).permute(0, 2, 3, 1)

    u, cotangent = (series(layout != 'length last') for _ in range(2))
    delta = series(layout == 'channels last')
    width = groups * channels
    A = -0.1 - 2 * torch.rand(width, state, device=device)
    D, bias = (torch.randn(width, device=device) - offset for offset in (0, 1))
    return [u, delta, A, shared(), shared(), D, bias, cotangent]


def cast(inputs, dtype):
    """Everything but A, D and delta_bias, and the cotangent of a float32 output."""
    return [x.to(dtype) if x.dim() == 4 else x for x in inputs[:-1]] + inputs[-1:]


def run_kernels(kernels, inputs, softplus=True):
    """Output and gradients, None for absent inputs."""
    *inputs, cotangent = inputs
    y, states = kernels.forward(*inputs, softplus)
    return y, *kernels.backward(cotangent, *inputs, states, softplus)


def run_reference(scan, inputs, softplus=True, dtype=torch.float64):
    """The same by autograd, computed in ``dtype``."""
    *inputs, cotangent = inputs
    leaves = [None if x is None else x.to(dtype).requires_grad_() for x in inputs]
    u, delta, *rest = leaves
    y = scan(u.flatten(1, 2), delta.flatten(1, 2), *rest, softplus).view_as(u)
    given = [x for x in leaves if x is not None]
    grads = iter(torch.autograd.grad(y, given, cotangent.to(dtype), materialize_grads=True))
    return y.detach(), *(None if x is None else next(grads) for x in leaves)


def error(value, exact):
    """Largest difference, relative to the largest exact value."""
    return (value.double() - exact).abs().max().item() / (exact.abs().max().item() or 1)


def assert_as_near(results, plain, exact, inputs, noise=None):
    """As near to exact values as plain float32 arithmetic whose results are rounded alike.

    ``noise`` has what is granted beside twice that error, for some dtypes.
    """
    likes = [inputs[0].float(), *inputs[:-1]]  # the output is float32
    for name, *row in zip(('y', *NAMES), results, plain, exact, likes, strict=True):
        value, other, true, like = row
        if like is None:
            assert value is None or name == 'y', name
            continue
        assert value.shape == like.shape and value.dtype == like.dtype, name
        granted = {torch.float32: 1e-5, **(noise or {})}.get(value.dtype, 1e-6)
        assert error(value, true) <= 2 * error(other.to(like.dtype), true) + granted, name


@pytest.fixture
def poisoned(monkeypatch):
    """Fresh memory is NaN, so that an element that no kernel writes shows."""

    def poison(allocate):
        def allocate_nan(*args, **kwargs):
            x = allocate(*args, **kwargs)
            return x.fill_(float('nan')) if x.is_floating_point() else x

        return allocate_nan

    for owner, name in ((torch, 'empty'), (torch, 'empty_like'), (torch.Tensor, 'new_empty')):
        monkeypatch.setattr(owner, name, poison(getattr(owner, name)))


@pytest.fixture
def short_chunks(monkeypatch):
    """A module's chunks get a given number of tiles; phase 2 takes two chunks at a time."""

    def shorten(kernels, shape, tiles_per_chunk):
        batch, groups, channels, _, length = shape
        programs = batch * groups * -(-channels // 32) * -(-length // 16)
        monkeypatch.setattr(kernels, 'PROGRAMS', max(1, programs // tiles_per_chunk))
        code = sys.modules[f'{kernels.__package__}.triton_kernels']
        monkeypatch.setattr(code, 'CARRY_ROWS', kernels.tl.constexpr(1))
        monkeypatch.setattr(code, 'CARRY_PARTS', kernels.tl.constexpr(2))

    return shorten


@pytest.fixture(scope='module')
def interpreted():
    return load_scan()


# (batch, groups, channels, state, length), layout, dtype, tiles in a chunk
CASES = [
    ((1, 1, 1, 1, 1), 'channels last', torch.float32, 1),
    ((2, 4, 3, 1, 2), 'length last', torch.float32, 1),
    ((1, 1, 33, 1, 31), 'channels last', torch.bfloat16, 1),
    ((1, 1, 5, 2, 65), 'length last', torch.bfloat16, 2),
    ((1, 1, 3, 1, 130), 'mixed', torch.float32, 2),
    ((1, 1, 4, 16, 18), 'channels last', torch.float16, 1),
]


@pytest.mark.parametrize(('shape', 'layout', 'dtype', 'tiles'), CASES)
def check_shapes_layouts_and_dtypes(
    shape, layout, dtype, tiles, interpreted, poisoned, short_chunks
):
    kernels, scan = interpreted
    short_chunks(kernels, shape, tiles)
    inputs = cast(random_inputs(*shape, layout), dtype)
    results = run_kernels(kernels, inputs)
    assert results[0].stride() == inputs[0].stride()
    plain = run_reference(scan, inputs, dtype=torch.float32)
    # The interpreter cuts bfloat16 off where a GPU rounds.
    assert_as_near(results, plain, run_reference(scan, inputs), inputs, {torch.bfloat16: 2**-8})


@pytest.mark.parametrize(
    ('absent', 'softplus'),
    [({'D', 'delta_bias'}, True), ({'delta_bias'}, False), ({'D'}, False)],
)
def check_optional_arguments(absent, softplus, interpreted, poisoned, short_chunks):
    kernels, scan = interpreted
    shape = (1, 1, 3, 1, 33)
    short_chunks(kernels, shape, 1)
    inputs = random_inputs(*shape, 'channels last')
    if not softplus:  # steps above 0; beyond the sequence's end, delta_bias alone would overflow
        inputs[1] = inputs[1].abs() + (0 if 'delta_bias' in absent else 50)
        inputs[6] = torch.full_like(inputs[6], -50)
    inputs = [None if name in absent else x for name, x in zip((*NAMES, ''), inputs, strict=True)]
    exact = run_reference(scan, inputs, softplus)
    assert_as_near(run_kernels(kernels, inputs, softplus), exact, exact, inputs)


def check_extreme_steps_and_decays(interpreted, poisoned, short_chunks):
    kernels, scan = interpreted
    shape = (1, 1, 4, 2, 40)
    short_chunks(kernels, shape, 2)
    inputs = random_inputs(*shape, 'length last')
    steps = torch.tensor([-1e3, -15, -1, 1e-3, 5, 19.9, 20.1, 1e3])
    inputs[1] = steps[torch.arange(4 * 40) * 3 % 8].view(1, 1, 4, 40)
    inputs[2] = -torch.tensor([[1e4, 1e-6], [1, 1e-2], [1e-4, 1e2], [0, 1e-1]])
    exact = run_reference(scan, inputs)
    assert all(x.isfinite().all() for x in exact)
    assert_as_near(run_kernels(kernels, inputs), exact, exact, inputs)


def check_tiny_steps(interpreted, short_chunks):
    kernels, scan = interpreted
    shape = (1, 1, 2, 1, 20)
    short_chunks(kernels, shape, 1)
    inputs = random_inputs(*shape, 'channels last')
    inputs[6] -= 12
    exact = run_reference(scan, inputs)
    assert_as_near(run_kernels(kernels, inputs), exact, exact, inputs)


@pytest.mark.parametrize('reverse', [False, True])
def check_carry_over_many_chunks(reverse, interpreted):
    kernels, _ = interpreted
    count, state, channels = 300, 2, 3  # more chunks than phase 2 reads at once
    slots, totals = torch.randn(1, count, state, channels), torch.rand(1, count, channels)
    A = -torch.rand(channels, state)
    expected, carry = slots.double(), torch.zeros(state, channels).double()
    for i in reversed(range(count)) if reverse else range(count):
        carry = torch.exp(totals[0, i] * A.T.double()) * carry + expected[0, i]
        expected[0, i] = carry
    first, direction = (count - 1, -1) if reverse else (0, 1)
    kernels.carry_kernel[(state,)](
        kernels._strided(slots), totals, A, count, channels, state, first, direction
    )
    assert error(slots, expected) < 1e-5


def read_vectors(path, device='cpu'):
    """Inputs and cotangent, and the official implementation's output and gradients."""
    arrays = np.load(path)
    groups = arrays['B'].shape[1]

    def read(name):
        x = torch.from_numpy(arrays[name]).to(device) if name in arrays else None
        return x.unflatten(1, (groups, -1)) if x is not None and x.dim() == 3 else x

    inputs = [read(name) for name in (*NAMES, 'cotangent')]
    inputs = [None if x is None else x.float() for x in inputs]
    return inputs, [read(name) for name in ('out', *(f'grad_{n}' for n in NAMES))]


def check_official_vectors(interpreted, short_chunks):
    kernels, _ = interpreted
    inputs, exact = read_vectors(ROOT / 'tests' / 'data' / 'scan_n1_l37_f64.npz')
    # The first of four groups: no group knows of the others, and the interpreter is slow.
    inputs, exact = (
        [x[:, :1] if x.dim() == 4 else x[: len(x) // 4] for x in xs] for xs in (inputs, exact)
    )
    short_chunks(kernels, (2, 1, 6, 1, 37), 2)
    assert_as_near(run_kernels(kernels, inputs), exact, exact, inputs)


# Model, (batch, groups, channels, state, length) of its first stage at 800x1280, layout, dtype
SIZES = [
    ('VMamba', (1, 4, 96, 1, 64000), 'channels last', torch.bfloat16),
    ('VMamba', (1, 4, 96, 1, 64000), 'channels last', torch.float32),
    ('VMamba v0', (1, 4, 192, 16, 64000), 'channels last', torch.float32),
    ('Vim', (1, 1, 384, 16, 4001), 'length last', torch.bfloat16),
]
KERNELS = ('end_kernel', 'carry_kernel', 'output_kernel', 'gradient_kernel')


def compile_kernels(target, folder):
    """Compile what real sizes launch; print registers, stack and local memory as JSON."""

    kernels, _ = load_scan()
    compiled = compile_at_launch(kernels, KERNELS, target)
    table = []
    for model, shape, layout, dtype in SIZES:
        compiled.clear()
        run_kernels(kernels, cast(random_inputs(*shape, layout, 'meta'), dtype))
        for kernel in compiled:
            table.append(
                [target, model, str(dtype), kernel.metadata.name, *usage_of(kernel, folder)]
            )
    print(json.dumps(table))


@pytest.fixture(scope='module')
def processes(tmp_path_factory):
    started = start_processes(__file__, tmp_path_factory.mktemp)
    yield started
    for process in started.values():
        process.kill()


@pytest.mark.parametrize('target', TARGETS)
def test_compiled_without_spills(target, processes):
    if target not in processes:
        pytest.skip(f'Triton brings no ptxas and cuobjdump, looked for in {CUOBJDUMP.parent}')
    output, _ = processes[target].communicate(timeout=400)
    assert processes[target].returncode == 0, output
    table = json.loads(output.splitlines()[-1])
    assert {row[3] for row in table} == set(KERNELS)
    for target_, model, dtype, kernel, registers, stack, local in table:
        print(f'{target_} {model:9} {dtype:14} {kernel:16} {registers:3} registers')
        assert stack == local == 0, (target_, model, dtype, kernel, stack, local)


def test_in_the_interpreter(processes):
    output, _ = processes['interpreter'].communicate(timeout=400)
    assert processes['interpreter'].returncode == 0, output
    assert f'{len(CASES) + 8} passed' in output


def on_cuda(test):
    skip = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
    return pytest.mark.cuda(skip(test))


@pytest.fixture(scope='module')
def kernels():
    from mambaout_mm.ops.selective_scan import triton

    return triton


@on_cuda
@pytest.mark.parametrize(('shape', 'layout', 'dtype', 'tiles'), CASES)
def test_shapes_on_cuda(shape, layout, dtype, tiles, kernels, poisoned, monkeypatch):
    from mambaout_mm.ops.selective_scan.reference import selective_scan_reference as scan

    batch, groups, channels, _, length = shape
    programs = batch * groups * -(-channels // 32) * -(-length // 16)
    monkeypatch.setattr(kernels, 'PROGRAMS', max(1, programs // tiles))
    inputs = cast(random_inputs(*shape, layout, 'cuda'), dtype)
    results = run_kernels(kernels, inputs)
    plain = run_reference(scan, inputs, dtype=torch.float32)
    assert_as_near(results, plain, run_reference(scan, inputs), inputs)


@on_cuda
@pytest.mark.parametrize('path', sorted(ROOT.glob('tests/data/scan_*.npz')), ids=lambda p: p.stem)
def test_official_vectors_on_cuda(path, kernels, poisoned):
    inputs, exact = read_vectors(path, 'cuda')
    results = run_kernels(kernels, inputs, 'plain' not in path.stem)
    assert_as_near(results, exact, exact, inputs)


@on_cuda
@pytest.mark.parametrize('layout', ['channels last', 'length last'])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('shape', [(1, 4, 96, 1, 64000), (2, 1, 384, 16, 4001)])
def test_real_sizes_on_cuda(shape, dtype, layout, kernels, poisoned):
    from mambaout_mm.ops.selective_scan import blocked  # PyTorch operations, on any device

    inputs = cast(random_inputs(*shape, layout, 'cuda'), dtype)
    results = run_kernels(kernels, inputs)
    again = run_kernels(kernels, inputs)
    for value, other in zip(results, again, strict=True):
        assert torch.equal(value, other)
    plain = run_kernels(blocked, inputs)
    exact = run_kernels(blocked, [x.double() for x in inputs])
    assert_as_near(results, plain, exact, inputs)


if __name__ == '__main__':
    compile_kernels(*sys.argv[1:])
