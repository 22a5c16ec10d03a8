"""The causal convolution with SiLU: its C kernels against float64, and what runs where."""

import pytest
import torch
from support import needs_torch
from support_native import library_with_fault
from torch.utils.checkpoint import checkpoint

from mambaout_mm.ops import native as libraries
from mambaout_mm.ops.causal_conv import _InC, causal_conv_silu, native
from mambaout_mm.ops.causal_conv.reference import causal_conv_silu_reference
from mambaout_mm.ops.modes import references
from mambaout_mm.ops.native import compiling

in_c = pytest.mark.skipif(libraries.kernels() is None, reason=libraries.description())
NAMES = ('y', 'x', 'weight', 'bias')
DTYPES = [torch.float32, torch.bfloat16]
LAYOUTS = ['contiguous', 'time outermost', 'time innermost', 'part of wider rows', 'expanded']

# (N, G, L, E) and k: parts of vectors, slabs, tiles and chunks; fewer steps than taps
SHAPES = [
    ((1, 1, 1, 1), 1),
    ((2, 3, 2, 5), 4),
    ((1, 2, 8, 16), 4),
    ((2, 1, 13, 33), 3),
    ((1, 4, 129, 17), 4),
    ((1, 2, 256, 48), 4),
    ((3, 2, 131, 19), 5),
    ((1, 1, 300, 270), 2),
    ((1, 2, 140, 7), 8),
]


@pytest.fixture(params=libraries.usable_instruction_sets())
def instruction_set(request, monkeypatch):
    library = libraries.load(request.param)
    monkeypatch.setattr(native, 'kernels', lambda: library)


@pytest.fixture
def poisoned(monkeypatch):
    """Fresh memory is NaN, so that an element that no kernel writes shows."""

    def poison(allocate):
        return lambda *args, **kwargs: allocate(*args, **kwargs).fill_(float('nan'))

    for owner, name in ((torch, 'empty_like'), (torch.Tensor, 'new_empty')):
        monkeypatch.setattr(owner, name, poison(getattr(owner, name)))


def in_layout(x, layout):
    """The values of (N, G, L, E), or with 'expanded' some of them, in a memory layout."""
    if layout == 'time outermost':
        return x.permute(2, 0, 1, 3).contiguous().permute(1, 2, 0, 3)
    if layout == 'time innermost':
        return x.transpose(2, 3).contiguous().transpose(2, 3)
    if layout == 'part of wider rows':
        wide = x.new_full((*x.shape[:3], 2 * x.shape[3] + 1), float('nan'))
        wide[..., 1 : x.shape[3] + 1] = x
        return wide[..., 1 : x.shape[3] + 1]
    if layout == 'expanded':
        return x[:1, :, :1].expand(x.shape)
    return x.contiguous()


def make_inputs(shape, size, dtype=torch.float32, layout='contiguous', cotangent='contiguous'):
    """x, weight, bias and a cotangent."""
    torch.manual_seed(0)
    width = shape[1] * shape[3]
    x, weight, bias, grad = (
        torch.randn(s).to(dtype) for s in (shape, (width, 1, size), (width,), shape)
    )
    return in_layout(2 * x, layout), weight, bias, in_layout(grad, cotangent)


def run(function, inputs, dtype=None):
    """y and the gradients of x, weight and bias."""
    *leaves, cotangent = (x if dtype is None else x.to(dtype) for x in inputs)
    leaves = [x.detach().requires_grad_() for x in leaves]
    y = function(*leaves)
    return y.detach(), *torch.autograd.grad(y, leaves, cotangent)


def assert_near(inputs):
    """Results of the C kernels as of the definition in float64, but for the rounding of a dtype."""
    results = run(_InC.apply, inputs)
    exact = run(causal_conv_silu_reference, inputs, torch.float64)
    for name, value, true, like in zip(NAMES, results, exact, (inputs[0], *inputs), strict=False):
        assert value.shape == like.shape and value.dtype == like.dtype, name
        limit = 2e-6 if value.dtype == torch.float32 else 2**-8
        error = (value.double() - true).abs().max().item()
        assert error <= limit * true.abs().max().item(), (name, error)
    assert results[0].is_contiguous()


@in_c
@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize(('shape', 'size'), SHAPES, ids=str)
def test_shapes(shape, size, dtype, instruction_set, poisoned):
    assert_near(make_inputs(shape, size, dtype))


@in_c
@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('size', [3, 4])
@pytest.mark.parametrize('layout', LAYOUTS)
def test_layouts_of_the_input_and_of_the_gradient(layout, size, dtype, poisoned):
    assert_near(make_inputs((2, 3, 150, 35), size, dtype, layout))
    assert_near(make_inputs((2, 3, 150, 35), size, dtype, cotangent=layout))


@in_c
def test_gradients_of_a_sum():
    """Their gradient has no memory of its own: strides of 0."""
    x, weight, bias, cotangent = make_inputs((2, 2, 20, 19), 4)
    assert_near((x, weight, bias, cotangent[:1, :1, :1, :1].expand(x.shape)))


@in_c
@pytest.mark.parametrize('dtype', DTYPES, ids=str)
def test_results_do_not_depend_on_the_number_of_threads(dtype):
    inputs = make_inputs((2, 2, 300, 35), 4, dtype)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(run(_InC.apply, inputs))
    finally:
        torch.set_num_threads(before)
    for others in results[1:]:
        for name, value, other in zip(NAMES, results[0], others, strict=True):
            assert torch.equal(value, other), name


@in_c
@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('value', [float('nan'), float('inf'), float('-inf')])
@pytest.mark.parametrize('where', [0, 1, 70, 127, 128, 149])
@pytest.mark.parametrize('name', ['x', 'cotangent'])
def test_what_is_not_finite_passes_through(name, where, value, dtype, instruction_set):
    """It makes the same elements infinite or NaN as PyTorch's operations do, and no others."""
    inputs = make_inputs((1, 2, 150, 19), 4, dtype)
    inputs[NAMES[1:].index(name) if name in NAMES else 3][0, 1, where, 17] = value
    results = run(_InC.apply, inputs)
    expected = run(causal_conv_silu_reference, inputs, torch.float32)
    for result, other in zip(results, expected, strict=True):
        limit = 1e-4 if dtype == torch.float32 else 0.1
        torch.testing.assert_close(result.float(), other, rtol=limit, atol=limit, equal_nan=True)


@in_c
def test_values_of_every_size(instruction_set):
    sizes = [0.0, -0.0, 1e-45, -1e-40, 1e-30, 5.5, -5.5, 88.0, -88.0, 105.0, -105.0, 1e30, -1e30]
    x = torch.tensor(sizes)[:, None].repeat(1, 17)[None, None]
    inputs = x, torch.ones(17, 1, 1), torch.zeros(17), torch.ones_like(x)
    results = run(_InC.apply, inputs)[:2]
    expected = run(causal_conv_silu_reference, inputs, torch.float64)[:2]
    for result, other in zip(results, expected, strict=True):
        torch.testing.assert_close(result.double(), other, rtol=2e-6, atol=1e-34)


def overflow_after_the_end():
    """Inputs with finite results, whose convolution would overflow one step after the last."""
    x, weight, bias, cotangent = make_inputs((1, 1, 150, 16), 4)
    weight[:, 0, 2:] = torch.tensor([10, 0.1])
    x[:, :, -1] = 1e38
    return x, weight, bias, cotangent


@in_c
def test_nothing_comes_from_after_the_end(instruction_set):
    _, grad_x, *_ = run(_InC.apply, overflow_after_the_end())
    _, expected, *_ = run(causal_conv_silu_reference, overflow_after_the_end())
    assert expected.isfinite().all()
    torch.testing.assert_close(grad_x, expected, rtol=1e-4, atol=1e-4)


@in_c
@pytest.mark.parametrize('dtype', DTYPES, ids=str)
def test_which_calls_run_in_c(dtype, monkeypatch):
    calls = []
    forward = native.forward
    monkeypatch.setattr(native, 'forward', lambda *x: calls.append(x[0].dtype) or forward(*x))
    inputs = make_inputs((1, 2, 20, 3), 4, dtype)[:3]
    y = causal_conv_silu(*inputs)
    assert calls == [dtype]
    with references():
        assert causal_conv_silu(*inputs).stride() != y.stride()
    with libraries.off():
        causal_conv_silu(*inputs)
    torch.func.jvp(causal_conv_silu, inputs, inputs)
    causal_conv_silu(*(x.double() for x in inputs))
    causal_conv_silu(*make_inputs((1, 2, 20, 3), 9, dtype)[:3])
    assert causal_conv_silu(inputs[0][:0], *inputs[1:]).shape == (0, 2, 20, 3)
    assert calls == [dtype]


@in_c
@needs_torch('2.4', 'float16 on a CPU')
def test_float16_does_not_run_in_c(monkeypatch):
    monkeypatch.setattr(native, 'forward', None)
    inputs = [x.half() for x in make_inputs((1, 2, 20, 3), 4)[:3]]
    assert torch.equal(causal_conv_silu(*inputs), causal_conv_silu_reference(*inputs))


@in_c
def test_under_autocast_in_bfloat16():
    """As the plain operations do it, but for one rounding less."""
    inputs = make_inputs((1, 2, 20, 19), 4)
    with torch.autocast('cpu', torch.bfloat16):
        y = causal_conv_silu(*inputs[:3])
        assert y.dtype == causal_conv_silu_reference(*inputs[:3]).dtype == torch.bfloat16
    exact = run(causal_conv_silu_reference, inputs, torch.float64)
    cotangent = inputs[3].bfloat16()
    leaves = [x.requires_grad_() for x in inputs[:3]]
    with torch.autocast('cpu', torch.bfloat16):
        y = causal_conv_silu(*leaves)
    grads = torch.autograd.grad(y, leaves, cotangent)
    for value, true in zip((y, *grads), exact, strict=True):
        assert (value.double() - true).abs().max() < 2**-6 * true.abs().max()
    assert {grad.dtype for grad in grads} == {torch.float32}


@in_c
def test_frozen_parameters_and_checkpoints():
    x, weight, bias, cotangent = make_inputs((1, 2, 20, 19), 4)
    expected = run(causal_conv_silu, (x, weight, bias, cotangent))[1]
    x.requires_grad_()
    y = checkpoint(causal_conv_silu, x, weight, bias, use_reentrant=False)
    assert torch.equal(torch.autograd.grad(y, x, cotangent)[0], expected)


@pytest.mark.parametrize(('shape', 'size'), SHAPES[1:4], ids=str)
def test_float64_has_true_gradients(shape, size):
    inputs = [x.double().requires_grad_() for x in make_inputs(shape, size)[:3]]
    assert torch.autograd.gradcheck(causal_conv_silu, inputs, fast_mode=True)


class Module(torch.nn.Module):
    def forward(self, *inputs):
        return causal_conv_silu(*inputs)


@pytest.mark.parametrize(
    'graph',
    [
        lambda module, inputs: torch.compile(module, backend='eager', fullgraph=True),
        pytest.param(
            lambda module, inputs: torch.export.export(module, inputs).module(),
            marks=needs_torch('2.7', 'before, SiLU is exported as a product of its own rounding'),
        ),
        torch.jit.trace,
    ],
    ids=['compiled', 'exported', 'traced'],
)
def test_graphs_have_plain_operators(graph):
    inputs = make_inputs((1, 2, 20, 19), 4)[:3]
    expected = causal_conv_silu_reference(*inputs)
    assert torch.equal(graph(Module(), inputs)(*inputs), expected)


@pytest.mark.parametrize(
    'shapes',
    [
        ((1, 2, 5, 3), (6, 1, 4), (5,)),
        ((1, 2, 5, 3), (5, 1, 4), (6,)),
        ((1, 2, 5, 3), (6, 2, 4), (6,)),
        ((1, 2, 5, 3), (6, 1, 0), (6,)),
        ((1, 2, 5, 3), (6, 4), (6,)),
        ((2, 5, 3), (6, 1, 4), (6,)),
    ],
    ids=str,
)
def test_shapes_that_do_not_fit_are_refused(shapes):
    with pytest.raises(ValueError, match=r'takes x of shape \(N, G, L, E\), weight .*; got \('):
        causal_conv_silu(*map(torch.zeros, shapes))


@in_c
def test_kernels_of_other_sizes_are_refused(monkeypatch):
    monkeypatch.setattr(native, 'CHUNK', 64)
    with pytest.raises(RuntimeError, match='causal_conv_forward was compiled for other sizes'):
        native.forward(*make_inputs((1, 2, 20, 19), 4)[:3])


# By what it does: a piece of the code, and what stands there instead
FAULTS = {
    'the convolution is not causal': ('tile->time + i - (size - 1)', 'tile->time + i - (size - 2)'),
    'the next group has the same bias': ('vec bias = floats(a->bias, p->group * a->channels + '
        'tile->channel, tile, whole);\n    for (long t = 0; t < TILE; t++) {\n        vec z',
        'vec bias = floats(a->bias, tile->channel, tile, whole);\n'
        '    for (long t = 0; t < TILE; t++) {\n        vec z'),
    'taps are turned round': ('taps[j] * d[t + size - 1 - j]', 'taps[j] * d[t + j]'),
    'slope of SiLU': ('(1.0f + z * (1.0f - s))', '(1.0f + z * s)'),
    'steps of the chunk after it are left out': (
        'slopes(a, p, tile, taps, rows, d, size - 1,', 'slopes(a, p, tile, taps, rows, d, 0,'),
    'tiles do not leave their slopes': ('    keep_slopes(p, tile, d, later, size);\n    for',
        '    for'),
    'slopes after the end': ('if (!whole && time >= a->length) d[t]', 'if (0) d[t]'),
    'sums of the tile before are lost': ('value += floats(x, index, tile, whole);', ';'),
    'a part of a vector is left out': (
        'load_part(x->data, at, tile->count,', 'load_part(x->data, at, tile->count - 1,'),
    'one chunk of several': ('p.chunk = task % chunks_of(a)', 'p.chunk = 0'),
}  # fmt: skip


def check_everything():
    """What has to find every fault."""
    for shape, size in (((2, 2, 150, 35), 4), ((1, 2, 131, 19), 3)):
        assert_near(make_inputs(shape, size))
    for where in (0, 149):
        inputs = make_inputs((1, 1, 150, 16), 4)
        inputs[0][..., where, 3] = float('inf')
        results = run(_InC.apply, inputs)
        for value, other in zip(results, run(causal_conv_silu_reference, inputs), strict=True):
            assert torch.equal(value.isnan(), other.isnan())
    assert run(_InC.apply, overflow_after_the_end())[1].isfinite().all()


@in_c
@pytest.mark.slow
@pytest.mark.skipif(compiling.find_compiler() is None, reason='needs a C compiler')
@pytest.mark.parametrize('fault', FAULTS)
def test_a_fault_in_the_source_is_found(fault, poisoned, tmp_path, monkeypatch):
    check_everything()
    old, new = FAULTS[fault]
    faulty = library_with_fault(tmp_path, 'causal_conv/causal_conv.c', old, new)
    monkeypatch.setattr(native, 'kernels', lambda: faulty)
    with pytest.raises(AssertionError):
        check_everything()
