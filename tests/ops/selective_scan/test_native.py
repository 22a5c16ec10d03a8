"""The scan's C kernels: every instruction set of this processor, shape, layout and thread count."""

import numpy as np
import pytest
import torch
from support import ROOT
from support_native import library_with_fault
from support_scan import NAMES

from mambaout_mm.ops import native as libraries
from mambaout_mm.ops.native import compiling
from mambaout_mm.ops.selective_scan import native
from mambaout_mm.ops.selective_scan.reference import selective_scan_reference

pytestmark = pytest.mark.skipif(libraries.kernels() is None, reason=libraries.description())

CHANNELS_LAST, LENGTH_LAST, NEITHER = 'channels last', 'length last', 'neither'
LAYOUTS = {
    CHANNELS_LAST: (CHANNELS_LAST,) * 4,
    LENGTH_LAST: (LENGTH_LAST,) * 4,
    'neither': (NEITHER,) * 4,
    'as Vim has it': (LENGTH_LAST, CHANNELS_LAST, CHANNELS_LAST, CHANNELS_LAST),
    'the other way round': (CHANNELS_LAST, LENGTH_LAST, LENGTH_LAST, NEITHER),
}


@pytest.fixture(params=libraries.usable_instruction_sets())
def instruction_set(request, monkeypatch):
    library = libraries.load(request.param)
    monkeypatch.setattr(native, 'kernels', lambda: library)


@pytest.fixture
def poisoned(monkeypatch):
    """Fresh memory is NaN, so that an element that no kernel writes shows."""

    def poison(allocate):
        return lambda *args, **kwargs: allocate(*args, **kwargs).fill_(float('nan'))

    for owner, name in ((torch, 'empty'), (torch, 'empty_like'), (torch.Tensor, 'new_empty')):
        monkeypatch.setattr(owner, name, poison(getattr(owner, name)))


def in_layout(x, layout):
    """The values of (b, G, D, L) in another memory layout."""
    if layout == CHANNELS_LAST:
        return x.transpose(2, 3).contiguous().transpose(2, 3)
    if layout == NEITHER:  # and the batch innermost
        wide = x.new_full((*x.shape[1:], 2, x.shape[0]), float('nan'))
        wide[..., 0, :] = x.permute(1, 2, 3, 0)
        return wide[..., 0, :].permute(3, 0, 1, 2)
    return x.contiguous()


def make_inputs(shape, layout=CHANNELS_LAST, dtypes=(torch.float32,) * 4):
    """u, delta, A, B, C, D, delta_bias and a cotangent, for (b, G, D, N, L)."""
    torch.manual_seed(0)
    batch, groups, channels, state, length = shape
    width = groups * channels
    series = [torch.randn(batch, groups, rows, length) for rows in (channels,) * 2 + (state,) * 2]
    u, delta, B, C = (
        in_layout(x.to(dtype), kind)
        for x, kind, dtype in zip(series, LAYOUTS[layout], dtypes, strict=True)
    )
    A = -0.1 - 2 * torch.rand(width, state)
    cotangent = in_layout(torch.randn(batch, groups, channels, length), LAYOUTS[layout][0])
    return [u, delta, A, B, C, torch.randn(width), torch.randn(width) - 1, cotangent]


def run_kernels(inputs, softplus=True):
    """y and the gradients, None for absent inputs."""
    *inputs, cotangent = inputs
    y, starts = native.forward(*inputs, softplus)
    return y, *native.backward(cotangent, *inputs, starts, softplus)


def run_reference(inputs, softplus=True, dtype=torch.float64):
    *inputs, cotangent = inputs
    leaves = [None if x is None else x.to(dtype).requires_grad_() for x in inputs]
    y = selective_scan_reference(*leaves, softplus)
    given = [x for x in leaves if x is not None]
    grads = iter(torch.autograd.grad(y, given, cotangent.to(dtype), materialize_grads=True))
    return y.detach(), *(None if x is None else next(grads) for x in leaves)


def assert_near(inputs, softplus=True):
    """y within 2e-6 of the float64 reference, and gradients but for the rounding of their dtype."""
    results, exact = run_kernels(inputs, softplus), run_reference(inputs, softplus)
    likes = [inputs[0].float(), *inputs[:-1]]
    for name, value, true, like in zip(('y', *NAMES), results, exact, likes, strict=True):
        if like is None:
            assert value is None, name
            continue
        assert value.shape == like.shape and value.dtype == like.dtype, name
        limit = 2e-6 if value.dtype in (torch.float32, torch.float64) else 2**-8
        error = (value.double() - true).abs().max().item()
        assert error <= limit * true.abs().max().item(), (name, error)
    assert results[0].stride() == torch.empty_like(inputs[0]).stride()


# (b, G, D, N, L): one slab and several, one chunk and several; parts of vectors, slabs, segments
SHAPES = [
    (1, 1, 1, 1, 1),
    (2, 3, 5, 1, 63),
    (1, 4, 24, 2, 64),
    (1, 2, 17, 3, 65),
    (2, 1, 33, 16, 130),
    (1, 1, 100, 17, 200),
    (1, 4, 96, 1, 97),
    (2, 4, 90, 1, 70),
    (1, 1, 3, 2, 1500),
    (1, 1, 16, 16, 640),
]


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('shape', SHAPES, ids=str)
def test_shapes_and_layouts(shape, layout, poisoned):
    assert_near(make_inputs(shape, layout))


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize('layout', LAYOUTS)
def test_instruction_sets(layout, dtype, instruction_set, poisoned):
    for shape in ((2, 2, 35, 3, 150), (1, 1, 20, 2, 400)):
        assert_near(make_inputs(shape, layout, (dtype,) * 4))


@pytest.mark.parametrize('layout', [CHANNELS_LAST, LENGTH_LAST])
def test_every_series_may_have_a_dtype_of_its_own(layout, poisoned):
    single, half, other = torch.float32, torch.bfloat16, torch.float16
    for dtypes in (
        (single, half, half, single),
        (half, single, single, half),
        (single, other, other, torch.float64),
    ):
        assert_near(make_inputs((1, 2, 20, 2, 70), layout, dtypes))


def test_parameters_of_other_dtypes():
    inputs = make_inputs((1, 2, 20, 2, 70))
    for i, dtype in ((2, torch.float64), (5, torch.bfloat16), (6, torch.float16)):
        inputs[i] = inputs[i].to(dtype)
    assert_near(inputs)


def test_optional_arguments(instruction_set, poisoned):
    u, delta, A, B, C, D, bias, cotangent = make_inputs((2, 2, 19, 2, 70))
    assert_near([u, delta, A, B, C, None, None, cotangent])
    assert_near([u, delta, A, B, C, D, None, cotangent])
    assert_near([u, delta.abs(), A, B, C, None, bias.abs(), cotangent], softplus=False)


def test_expanded_inputs():
    inputs = make_inputs((2, 2, 19, 2, 70))
    for i in (0, 1, 3, 4, 7):
        inputs[i] = inputs[i][:1, :, :1].expand(inputs[i].shape)
    inputs[1] = inputs[1][..., :1].expand(inputs[1].shape)
    assert_near(inputs)


@pytest.mark.parametrize('path', sorted(ROOT.glob('tests/data/scan_*.npz')), ids=lambda p: p.stem)
def test_official_vectors(path, instruction_set):
    arrays = np.load(path)
    groups = arrays['B'].shape[1]
    inputs = [torch.from_numpy(arrays[n]).float() if n in arrays else None for n in NAMES]
    inputs.append(torch.from_numpy(arrays['cotangent']).float())
    inputs = [x.unflatten(1, (groups, -1)) if x is not None and x.dim() == 3 else x for x in inputs]
    results = run_kernels(inputs, 'plain' not in path.stem)
    for name, value in zip(('out', *(f'grad_{n}' for n in NAMES)), results, strict=True):
        if value is not None:
            expected = torch.from_numpy(arrays[name]).view_as(value)
            assert (value - expected).abs().max() < 5e-6 * expected.abs().max(), name


@pytest.mark.parametrize('shape', [(1, 1, 24, 3, 1000), (1, 4, 40, 2, 200)], ids=str)
def test_results_do_not_depend_on_the_number_of_threads(shape):
    inputs = make_inputs(shape)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(run_kernels(inputs))
    finally:
        torch.set_num_threads(before)
    for others in results[1:]:
        for value, other in zip(results[0], others, strict=True):
            assert torch.equal(value, other)


@pytest.mark.parametrize('value', [float('nan'), float('inf'), float('-inf')])
@pytest.mark.parametrize('name', ['u', 'delta', 'B', 'C'])
@pytest.mark.parametrize('shape', [(1, 4, 19, 2, 200), (1, 1, 5, 1, 300)], ids=str)
def test_what_is_not_finite_passes_through(shape, name, value, instruction_set):
    inputs = make_inputs(shape)
    inputs[NAMES.index(name)][0, 0, 0, 70] = value
    results, expected = run_kernels(inputs), run_reference(inputs, dtype=torch.float32)
    for result, other in zip(results, expected, strict=True):
        torch.testing.assert_close(result, other, rtol=1e-4, atol=1e-4, equal_nan=True)


def test_steps_and_decays_of_every_size(instruction_set):
    inputs = make_inputs((1, 1, 8, 2, 100))
    steps = torch.tensor([-1e3, -90, -15, -1, 1e-3, 5, 19.9, 20.1, 1e3])
    inputs[1] = steps[torch.arange(800) * 4 % 9].view(1, 1, 8, 100)
    decays = torch.tensor([1e4, 1e-6, 1, 1e-2, 1e-4, 1e2, 0, 1e-1])
    inputs[2] = -torch.stack([decays, decays.roll(3)], 1)
    assert_near(inputs)


def test_tiny_steps_have_all_digits(instruction_set):
    inputs = make_inputs((1, 1, 8, 2, 100))
    inputs[5], inputs[6] = None, inputs[6] - 40
    assert_near(inputs)


def test_numbers_below_the_normal_ones(instruction_set):
    inputs = make_inputs((1, 1, 8, 2, 100))
    inputs[0] *= 1e-39
    y, exact = run_kernels(inputs)[0], run_reference(inputs)[0]
    assert (y - exact).abs().max() < 1e-5 * exact.abs().max()


# By what it does: a file, a piece of its code, and what stands there instead
FAULTS = {
    'no bias': ('scan_forward.c', 'dt[t] + bias', 'dt[t]'),
    'no bias in the backward pass': ('scan_backward.c', 'delta[t] + bias', 'delta[t]'),
    'no bias from zero': ('scan_backward.c', 'a, dt[t] + bias', 'a, dt[t]'),
    'slope of softplus is 1': ('scan.h', 'choose(x < 0.0f, e * larger, larger)', 'splat(1)'),
    'a wrong coefficient': ('scan.h', '0.1967593917f', '0.1977593917f'),
    'parts of vectors are left out': ('scan.h', 'part(x, index, count, v', 'part(x, index, 0, v'),
    'squares are not transposed': ('tile.h', 'a[k + WIDTH * WIDTH / 2]', 'a[k]'),
    'no strides of channels': ('tile.h', 'c * x->channel + t * x->time, 1, dtype', 'c, 1, dtype'),
    'the state stays as it is': ('scan_forward.c', 'count, h);\n    }', 'count, start);\n    }'),
    'the state before is subtracted': ('scan_forward.c', 'added + exp2_of', 'added - exp2_of'),
    'the state is not carried to later chunks': ('scan_forward.c', 'decay * load', '0 * load'),
    'the adjoint is not carried': ('scan_backward.c', 'count, q);\n', 'count, 0 * q);\n'),
    'the adjoint is not carried to earlier chunks': ('scan_backward.c', 'decay * end', '0 * end'),
    'the adjoint decays by another step': ('scan_backward.c', '(w[t].decay, q', '(w[0].decay, q'),
    'one slab of several': ('scan_backward.c', 'slab < a->slabs', 'slab < 1'),
    'the last block is not written': (
        'scan_backward.c',
        'k * WIDTH < width; k++)\n            write',
        '(k + 1) * WIDTH <= width; k++)\n            write',
    ),
    'no gradient by way of D': ('scan_backward.c', 'if (a->skip) grad_u', 'if (0) grad_u'),
    'lanes without a channel count': ('scan_backward.c', '= shared.grad_C[t][c] = 0;', '= 0;'),
}  # fmt: skip


def check_everything():
    """What has to find every fault."""
    for shape in ((1, 4, 35, 2, 150), (1, 1, 20, 2, 400)):
        for layout in (CHANNELS_LAST, LENGTH_LAST, 'neither'):
            assert_near(make_inputs(shape, layout))
    inputs = make_inputs((1, 4, 1, 1, 10))
    inputs[3][0, 0, 0, 5] = float('inf')
    C_grad, expected = run_kernels(inputs)[5], run_reference(inputs, dtype=torch.float32)[5]
    assert torch.equal(C_grad.isnan(), expected.isnan())


@pytest.mark.slow
@pytest.mark.skipif(compiling.find_compiler() is None, reason='needs a C compiler')
@pytest.mark.parametrize('fault', FAULTS)
def test_a_fault_in_the_source_is_found(fault, poisoned, tmp_path, monkeypatch):
    check_everything()
    file, old, new = FAULTS[fault]
    faulty = library_with_fault(tmp_path, f'selective_scan/{file}', old, new)
    monkeypatch.setattr(native, 'kernels', lambda: faulty)
    with pytest.raises(AssertionError):
        check_everything()
