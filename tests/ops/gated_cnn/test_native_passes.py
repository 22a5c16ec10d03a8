"""The C passes over a Gated CNN block's maps against PyTorch's operations in float64."""

import pytest
import torch
from support_native import library_with_fault

from mambaout_mm.ops import native
from mambaout_mm.ops.gated_cnn import native_passes, torch_passes
from mambaout_mm.ops.native import compiling

pytestmark = pytest.mark.skipif(
    native.kernels() is None, reason=f'C kernels: {native.description()}'
)
EPS = 1e-6
DTYPES = [torch.float32, torch.bfloat16]
LIMITS = {torch.float32: 2e-6, torch.bfloat16: 2**-7}

# Shape of the map (N, H, W), and the width h of the gate and Cc of the convolution.
CASES = {
    'one pixel, one channel': ((1, 1, 1), 1, 1),
    'below any vector': ((1, 3, 2), 5, 3),
    'whole vectors': ((1, 5, 4), 96, 32),
    'everything convolved': ((2, 5, 3), 37, 37),
    'widths of mambaout_base': ((1, 9, 8), 341, 128),
    'more rows than tasks and bands': ((2, 19, 21), 48, 17),
}


@pytest.fixture(params=native.usable_instruction_sets())
def instruction_set(request, monkeypatch):
    """Each instruction set that this processor has."""
    library = native.load(request.param)
    monkeypatch.setattr(native, 'kernels', lambda: library)


def random_maps(case, dtype):
    """gi, mixed, the gradient of the gate, and a block's input with as many channels as mixed."""
    torch.manual_seed(0)
    shape, hidden, conv_dim = CASES[case]
    widths = (2 * hidden - conv_dim, conv_dim, hidden, conv_dim)
    return [(2 * torch.randn(*shape, width)).to(dtype) for width in widths]


def run_all(passes, maps, dtype, activation='gelu', size=7):
    """What each pass gives, by its name, of maps, in ``dtype`` or float64."""
    gi, mixed, grad, x = maps
    channels = x.shape[-1]
    torch.manual_seed(1)
    weight, bias = (torch.randn(channels).to(x.dtype) for _ in range(2))
    grad_mixed = torch.empty_like(mixed)
    results = {'norm': passes.layer_norm(x, weight, bias, EPS, dtype)}
    names = ('norm: x', 'norm: weight', 'norm: bias')
    grads = passes.layer_norm_backward(mixed, x, weight, bias, EPS)
    results |= dict(zip(names, grads, strict=True))
    results['gate'] = passes.gate(gi, mixed, activation)
    names = ('gate once more', 'gate: gi', 'gate: sums of gi')
    parts = passes.gate_backward(grad, gi, mixed, activation, grad_mixed)
    results |= dict(zip(names, parts, strict=True)) | {'gate: mixed': grad_mixed}
    taps = torch.randn(channels, 1, size, size).to(x.dtype)
    results['conv'] = passes.convolve(mixed, taps, bias)
    results['conv: input'] = passes.input_gradient(mixed, taps)
    names = ('conv: weight', 'conv: bias')
    results |= dict(zip(names, passes.conv_gradients(mixed, x, size), strict=True))
    return results | {'sums': passes.column_sums(gi)}


def errors(results, exact):
    """Largest error of each result, relative to the largest value."""
    return {
        name: ((results[name].double() - value).abs().max() / value.abs().max()).item()
        for name, value in exact.items()
    }


def worst(case, dtype, **kwargs):
    maps = random_maps(case, dtype)
    exact = run_all(torch_passes, [x.double() for x in maps], torch.float64, **kwargs)
    found = errors(run_all(native_passes, maps, dtype, **kwargs), exact)
    if case.startswith('one'):  # its norm is exactly 0, and so is what it passes back
        found = {name: error for name, error in found.items() if not name.startswith('norm')}
    return max(found.items(), key=lambda item: item[1])


@pytest.mark.parametrize('activation', ['gelu', 'silu'])
@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('case', CASES)
def test_agrees_with_float64(case, dtype, activation, instruction_set):
    name, error = worst(case, dtype, activation=activation)
    assert error < LIMITS[dtype], name


@pytest.mark.parametrize('size', [1, 3, 5, 9])
@pytest.mark.parametrize('case', CASES)
def test_other_kernel_sizes(case, size, instruction_set):
    name, error = worst(case, torch.float32, size=size)
    assert error < LIMITS[torch.float32], name


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('case', CASES)
def test_threads_do_not_change_a_bit(case, dtype):
    before, maps, results = torch.get_num_threads(), random_maps(case, dtype), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(run_all(native_passes, maps, dtype))
    finally:
        torch.set_num_threads(before)
    for name, value in results[0].items():
        for other in results[1:]:
            assert torch.equal(value, other[name]), name


def test_norm_from_float32_to_bfloat16_and_back(instruction_set):
    """As under autocast."""
    x, weight, bias = torch.randn(2, 5, 4, 37), torch.rand(37), torch.randn(37)
    grad = torch.randn(2, 5, 4, 37).bfloat16()
    y = native_passes.layer_norm(x, weight, bias, EPS, torch.bfloat16)
    assert y.dtype == torch.bfloat16
    expected = torch_passes.layer_norm(x, weight, bias, EPS, torch.float32)
    assert torch.equal(y, expected.bfloat16()) or (y - expected).abs().max() < 2**-7 * 4
    results = native_passes.layer_norm_backward(grad, x, weight, bias, EPS)
    expected = torch_passes.layer_norm_backward(grad.float(), x, weight, bias, EPS)
    for result, other in zip(results, expected, strict=True):
        assert result.dtype == torch.float32
        torch.testing.assert_close(result, other)


SPECIAL = [0.0, -0.0, 1e-45, -1e-40, 1e-30, 5.5, -5.5, 14.0, -14.0, 90.0, -90.0, 1e30, -1e30]


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('activation', ['gelu', 'silu'])
def test_extreme_values(activation, dtype, instruction_set):
    g = torch.tensor(SPECIAL).to(dtype)[:, None].repeat(1, 33)  # vectors, and one left over
    ones = torch.ones_like(g)
    gi, none = torch.cat((g, ones), dim=1), ones[:, :0]
    y = native_passes.gate(gi[None, None], none[None, None], activation)
    expected = torch_passes.gate(gi[None, None].double(), none[None, None].double(), activation)
    torch.testing.assert_close(y.double(), expected, rtol=LIMITS[dtype], atol=1e-6)
    results = native_passes.gate_backward(
        ones[None, None], gi[None, None], none[None, None], activation, none[None, None].clone()
    )
    exact = torch_passes.gate_backward(
        *(x[None, None].double() for x in (ones, gi, none)), activation, none[None, None].double()
    )
    for result, other in zip(results[:2], exact, strict=False):
        torch.testing.assert_close(result.double(), other, rtol=LIMITS[dtype], atol=1e-6)


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')], ids=str)
@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('activation', ['gelu', 'silu'])
def test_nan_and_infinity_pass_through_as_in_pytorch(activation, dtype, value, instruction_set):
    maps = random_maps('more rows than tasks and bands', dtype)
    for x in maps:
        x[0, 3, 2, :5] = value
        x[1, 0, 0, -1] = value
    expected = run_all(torch_passes, maps, dtype, activation)
    results = run_all(native_passes, maps, dtype, activation)
    for name, other in expected.items():
        result = results[name]
        if name == 'conv: weight':  # zeros around the map times infinity, in some taps or others
            result, other = (x.sum((1, 2, 3)) for x in (result, other))
        assert torch.equal(result.isnan(), other.isnan()), name
        infinite = other.isinf()
        assert torch.equal(result[infinite].float(), other[infinite].float()), name


GATE, NORM, SUMS = (f'gated_cnn/{name}.c' for name in ('gate', 'layer_norm', 'column_sums'))
CONVOLUTION, GRADIENT = (f'depthwise/{name}.c' for name in ('convolution', 'conv_gradient'))
BANDS = 'depthwise/bands.h'
FAULTS = {
    'no tail of a row': (GATE, 'while (k < count) {', 'while (0) {'),
    'i in place of c': (GATE, 'p * width + inner, p * outer,', 'p * width, p * outer,'),
    'slope without the density': (GATE, '*slope = p + x * density;', '*slope = p;'),
    'slope of SiLU': (GATE, '(1.0f + x * (1.0f - p))', '(1.0f + x * p)'),
    'sums of the last rows': (GATE, 'add_columns(sums, a->grad_gi, p * width, end - p',
                              'add_columns(sums, a->grad_gi, p * width, end - p - 1'),
    'last task': (GATE, '''void gate_forward(const struct gate *a) {
    run_tasks(forward_task, a, (a->pixels + a->rows - 1) / a->rows''',
                  '''void gate_forward(const struct gate *a) {
    run_tasks(forward_task, a, (a->pixels + a->rows - 1) / a->rows - 1'''),
    'epsilon': (NORM, 'sqrtf(variance + eps)', 'sqrtf(variance + 1e-2f)'),
    'variance of the tail': (NORM, '(sum(squares) + rest_squares)', 'sum(squares)'),
    'slope of the norm': (NORM, 'product += d * xhat;\n    }\n    return',
                          'product += d;\n    }\n    return'),
    'sums of an earlier task': (NORM, 'float *sums = a->sums + 2 * index * a->channels',
                                'float *sums = a->sums'),
    'kernel row of the next row': (GRADIENT, 'below = above + padded', 'below = above'),
    'zeros around': (BANDS, 'if (from < 0 || from >= height) continue;',
                     'if (from < 0) from = 0; if (from >= height) continue;'),
    'first image alone': (BANDS, '((band->image * height + from)', '((from)'),
    'band': (GRADIENT, '(band.image * bands + band.number)', '(band.image * bands)'),
    'columns of a vector': (CONVOLUTION, 'input[v * padded + u + k]', 'input[v * padded + u]'),
    'turned weight': (CONVOLUTION, 'a->turned ? taps - 1 - tap : tap', 'tap'),
    'bias': (CONVOLUTION, 'sums[k] = bias;', 'sums[k] = (vec){0};'),
    'pixels of a task': (SUMS, '? last - p :', '? last - p - 1 :'),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(compiling.find_compiler() is None, reason='needs a C compiler')
@pytest.mark.parametrize('fault', FAULTS)
def test_a_fault_in_the_source_is_found(fault, tmp_path, monkeypatch):
    source, old, new = FAULTS[fault]
    faulty = library_with_fault(tmp_path, source, old, new)
    monkeypatch.setattr(native, 'kernels', lambda: faulty)
    for case in ('more rows than tasks and bands', 'widths of mambaout_base'):
        for activation in ('gelu', 'silu'):
            if not worst(case, torch.float32, activation=activation)[1] < LIMITS[torch.float32]:
                return
    pytest.fail(f'no test found it: {fault}')
