"""The gated convolution against its definition, computed in float64."""

import pytest
import torch
from torch import library
from torch.utils.checkpoint import checkpoint

from mambaout_mm.ops.gated_conv import cpu, gated_conv
from mambaout_mm.ops.gated_conv.reference import gated_conv_reference

NAMES = ('y', 'x', 'weight', 'bias')

# Shape of the map (N, H, W), hidden width, convolved channels, kernel size.
CASES = {
    'odd sides': ((2, 7, 9), 11, 4, 3),
    'kernel of one pixel': ((2, 4, 6), 6, 2, 1),
    'low map': ((3, 2, 9), 10, 4, 7),
    'narrow map': ((1, 8, 1), 10, 4, 5),
    'one pixel': ((2, 1, 1), 12, 5, 7),
    'everything convolved': ((2, 6, 5), 8, 8, 5),
    'mambaout_base': ((1, 9, 8), 341, 128, 7),
}


def relative_error(value, exact):
    return ((value.double() - exact).abs().max() / exact.abs().max()).item()


def random_inputs(shape, hidden, conv_dim, size, dtype=torch.float64):
    """x, weight and bias."""
    x = torch.randn(*shape, 2 * hidden)
    weight = torch.randn(conv_dim, 1, size, size) / size
    return [tensor.to(dtype) for tensor in (x, weight, torch.randn(conv_dim))]


def with_gradients(function, inputs, cotangent, *args):
    """The output and the gradient of each input."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    y = function(*leaves, *args)
    return y.detach(), *torch.autograd.grad(y, leaves, cotangent)


def assert_agrees(inputs, hidden, activation):
    """No more than twice as far from float64 as the plain operations in the same dtype.

    And one step of the dtype, without which luck would decide: few elements can be nearer than
    that.
    """
    x = inputs[0]
    step = max(1e-6, torch.finfo(x.dtype).eps)
    cotangent = torch.randn(*x.shape[:-1], hidden).to(x.dtype)
    results = with_gradients(gated_conv, inputs, cotangent, hidden, activation)
    plain = with_gradients(gated_conv_reference, inputs, cotangent, hidden, activation)
    double = [tensor.double() for tensor in inputs]
    exact = with_gradients(gated_conv_reference, double, cotangent.double(), hidden, activation)
    for name, result, other, truth in zip(NAMES, results, plain, exact, strict=True):
        assert (result.dtype, result.shape) == (x.dtype, truth.shape), name
        limit = 1e-12 if x.dtype == torch.float64 else 2 * relative_error(other, truth) + step
        assert relative_error(result, truth) < limit, name


@pytest.mark.parametrize('activation', ['gelu', 'silu'])
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize('case', CASES)
def test_agrees_with_the_definition(case, dtype, activation):
    shape, hidden, conv_dim, size = CASES[case]
    assert_agrees(random_inputs(shape, hidden, conv_dim, size, dtype), hidden, activation)


@pytest.mark.parametrize('layout', ['cut out of a wider map', 'permuted NCHW', 'channels last'])
def test_any_memory_layout(layout):
    x, weight, bias = random_inputs((2, 5, 6), 7, 3, 5, torch.float32)
    if layout == 'cut out of a wider map':
        x = torch.randn(2, 7, 9, 20)[:, 1:6, 2:8, 3:17]
    elif layout == 'permuted NCHW':
        x = torch.randn(2, 14, 5, 6).permute(0, 2, 3, 1)
    else:  # what a convolution of channels-last memory hands on: contiguous as (N, H, W, C)
        x = torch.randn(2, 14, 5, 6).to(memory_format=torch.channels_last).permute(0, 2, 3, 1)
    assert_agrees([x, weight, bias], 7, 'gelu')


def test_the_gradient_of_a_sum():
    """Which arrives expanded, with strides of 0."""
    inputs = random_inputs((2, 5, 6), 7, 3, 5)
    ones = torch.ones(2, 5, 6, 7, dtype=torch.float64)
    expected = with_gradients(gated_conv_reference, inputs, ones, 7, 'silu')
    results = with_gradients(gated_conv, inputs, ones[:1, :1, :1, :1].expand_as(ones), 7, 'silu')
    for name, result, other in zip(NAMES, results, expected, strict=True):
        assert relative_error(result, other) < 1e-12, name


@pytest.mark.parametrize('size', [1, 3, 7])
@pytest.mark.parametrize(
    ('shape', 'tile'),
    [
        ((3, 7, 6, 4), 1 << 19),  # all in one call
        ((5, 4, 6, 4), 2 * 96),  # two images side by side, and one left over
        ((2, 7, 6, 4), 2 * 24),  # strips of two rows, lower than the kernel, and one left over
        ((2, 9, 6, 4), 4 * 24 + 5),  # strips of four rows, and one left over
        ((1, 3, 50, 64), 1000),  # one row is already more than a call should have
    ],
)
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_weight_gradient_in_strips(shape, tile, size, dtype, monkeypatch):
    monkeypatch.setattr(cpu, 'TILE', tile)
    channels = shape[-1]
    c, grad = (torch.randn(shape).to(dtype) for _ in range(2))
    weight = torch.zeros(channels, 1, size, size, dtype=torch.float64, requires_grad=True)
    y = cpu.convolve(c.double(), weight, None)
    exact = torch.autograd.grad(y, weight, grad.double())[0]
    result = cpu.weight_gradient(c, grad, size)
    assert result.shape == weight.shape
    assert result.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    # oneDNN rounds each call's result to bfloat16; the results themselves add up in float32.
    limit = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 2**-6}[dtype]
    assert relative_error(result, exact) < limit


@pytest.mark.parametrize('shape', [(3, 7, 9), (2, 1, 40)])
def test_gradients_in_strips(shape, monkeypatch):
    monkeypatch.setattr(cpu, 'TILE', 50)
    assert_agrees(random_inputs(shape, 11, 4, 5), 11, 'gelu')


def test_every_element_is_written_before_it_is_read(monkeypatch):
    def poisoned(allocate):
        return lambda *args, **kwargs: allocate(*args, **kwargs).fill_(float('nan'))

    inputs = random_inputs((2, 5, 6), 7, 3, 5, torch.float32)
    for owner, name in ((torch, 'empty'), (torch, 'empty_like'), (torch.Tensor, 'new_empty')):
        monkeypatch.setattr(owner, name, poisoned(getattr(owner, name)))
    assert torch.empty(1).isnan().all()
    assert_agrees(inputs, 7, 'gelu')


def test_no_more_than_the_inputs_is_kept_for_backward():
    inputs = [tensor.requires_grad_() for tensor in random_inputs((2, 8, 8), 10, 4, 3)]
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        gated_conv(*inputs, 10, 'gelu')
    assert kept == {tensor.data_ptr(): 8 * tensor.numel() for tensor in inputs}


def test_autocast_is_casting_by_hand():
    inputs = random_inputs((2, 5, 6), 7, 3, 5, torch.float32)
    cotangent = torch.randn(2, 5, 6, 7).bfloat16()

    def by_hand(x, *others):
        return gated_conv(x.bfloat16(), *others)

    expected = with_gradients(by_hand, inputs, cotangent, 7, 'gelu')
    with torch.autocast('cpu', torch.bfloat16):
        results = with_gradients(gated_conv, inputs, cotangent, 7, 'gelu')
    dtypes = (torch.bfloat16, torch.float32, torch.float32, torch.float32)
    for name, result, other, dtype in zip(NAMES, results, expected, dtypes, strict=True):
        assert result.dtype == dtype, name
        assert torch.equal(result, other), name


def test_autocast_leaves_float64_alone():
    inputs = random_inputs((1, 3, 4), 5, 2, 3)
    with torch.autocast('cpu', torch.bfloat16):
        y = gated_conv(*inputs, 5, 'gelu')
    assert torch.equal(y, gated_conv(*inputs, 5, 'gelu'))


def test_checkpointing_gives_the_same_gradients():
    x, *others = random_inputs((2, 5, 6), 7, 3, 5, torch.float32)
    matrix = torch.randn(14, 14, requires_grad=True)

    def layer(x):
        return gated_conv(x @ matrix, *others, 7, 'gelu')

    expected = torch.autograd.grad(layer(x).sum(), matrix)[0]
    y = checkpoint(layer, x, use_reentrant=False)
    assert torch.equal(torch.autograd.grad(y.sum(), matrix)[0], expected)


@pytest.mark.parametrize('activation', ['gelu', 'silu'])
def test_gradcheck(activation):
    inputs = [tensor.requires_grad_() for tensor in random_inputs((2, 2, 3), 3, 2, 3)]
    assert torch.autograd.gradcheck(gated_conv, (*inputs, 3, activation))


@pytest.mark.parametrize('differentiable', [False, True])
def test_is_a_well_behaved_operator(differentiable):
    inputs = random_inputs((2, 3, 5), 5, 2, 3, torch.float32)
    inputs = [tensor.requires_grad_(differentiable) for tensor in inputs]
    library.opcheck(torch.ops.mambaout_mm.gated_conv, (*inputs, 5, 'gelu'))


@pytest.mark.parametrize('layout', ['contiguous', 'cut out of a wider map'])
def test_its_backward_is_a_well_behaved_operator(layout):
    x, *others = random_inputs((2, 3, 5), 5, 2, 3, torch.float32)
    grad_y = torch.randn(2, 3, 5, 5)
    if layout == 'cut out of a wider map':
        x, grad_y = torch.randn(2, 3, 5, 14)[..., 3:13], torch.randn(2, 3, 9, 5)[:, :, 2:7]
    library.opcheck(torch.ops.mambaout_mm.gated_conv_backward, (grad_y, x, *others, 5, 'gelu'))


def test_compiles_to_one_graph_for_changing_sizes():
    def model(*inputs):
        return (gated_conv(*inputs, 5, 'gelu').sigmoid() ** 2).sum()

    compiled = torch.compile(model, backend='aot_eager', fullgraph=True, dynamic=True)
    for shape in ((2, 5, 6), (3, 8, 4)):
        inputs = random_inputs(shape, 5, 2, 3)
        expected = with_gradients(model, inputs, None)
        for name, a, b in zip(NAMES, with_gradients(compiled, inputs, None), expected, strict=True):
            assert torch.allclose(a, b, rtol=1e-12, atol=1e-12), name


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(activation='relu'), "activation is 'gelu' or 'silu', got 'relu'"),
        (dict(x=(2, 5, 6, 15)), r'\(N, H, W, 16\) for hidden=8, got \(2, 5, 6, 15\)'),
        (dict(x=(5, 6, 16)), r'\(N, H, W, 16\) for hidden=8, got \(5, 6, 16\)'),
        (dict(weight=(4, 1, 4, 4)), r'odd k and Cc from 1 to 8, got \(4, 1, 4, 4\)'),
        (dict(weight=(4, 1, 3, 5)), r'\(Cc, 1, k, k\) .* got \(4, 1, 3, 5\)'),
        (dict(weight=(4, 2, 3, 3)), r'\(Cc, 1, k, k\) .* got \(4, 2, 3, 3\)'),
        (dict(weight=(4, 3, 3)), r'\(Cc, 1, k, k\) .* got \(4, 3, 3\)'),
        (dict(weight=(9, 1, 3, 3)), r'Cc from 1 to 8, got \(9, 1, 3, 3\)'),
        (dict(weight=(0, 1, 3, 3)), r'Cc from 1 to 8, got \(0, 1, 3, 3\)'),
        (dict(bias=(5,)), r'bias has shape \(5,\), but weight \(4, 1, 3, 3\) asks for \(4,\)'),
    ],
)
def test_arguments_that_do_not_fit(change, message):
    names = ('x', 'weight', 'bias')
    arguments = dict(zip(names, random_inputs((2, 5, 6), 8, 4, 3), strict=True))
    arguments |= {
        name: torch.zeros(value) if name in names else value for name, value in change.items()
    }
    with pytest.raises(ValueError, match=message):
        gated_conv(**{'hidden': 8, 'activation': 'gelu', **arguments})


def test_integers_are_refused():
    x, *others = random_inputs((2, 5, 6), 8, 4, 3)
    with pytest.raises(TypeError, match=r'x is torch.int64, not a floating-point dtype'):
        gated_conv(x.long(), *others, 8, 'gelu')
