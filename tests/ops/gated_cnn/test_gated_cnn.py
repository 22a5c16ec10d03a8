"""The branch of a Gated CNN block against its definition, computed in float64."""

import re

import pytest
import torch
from support import needs_torch
from torch import library
from torch.utils.checkpoint import checkpoint

from mambaout_mm.ops import gated_cnn as package
from mambaout_mm.ops import native
from mambaout_mm.ops.gated_cnn import (
    composed,
    cpu,
    gated_cnn,
    native_passes,
    plain_gate,
    torch_passes,
)
from mambaout_mm.ops.gated_cnn.parameters import Parameters
from mambaout_mm.ops.gated_cnn.reference import gated_cnn_reference

BRANCHES = {
    'native': cpu.Strips(native_passes),
    'torch': cpu.Strips(torch_passes),
    'composed': composed.Composed(plain_gate),
}
NAMES = ('y', 'x', *Parameters._fields)
EPS = 1e-2  # large enough for its loss to show

# Shape of the map (N, H, W), channels, hidden width, convolved channels, kernel size.
CASES = {
    'odd sides': ((2, 7, 9), 6, 16, 6, 3),
    'kernel of one pixel': ((1, 4, 6), 6, 16, 4, 1),
    'below the kernel': ((3, 2, 1), 6, 16, 6, 7),
    'one pixel': ((2, 1, 1), 6, 16, 6, 5),
    'everything convolved': ((2, 5, 4), 8, 16, 16, 3),
    'width 21': ((2, 5, 4), 8, 21, 8, 7),
    'width 13, all convolved': ((2, 5, 4), 5, 13, 13, 3),
    'widths of mambaout_base': ((1, 9, 8), 16, 341, 128, 7),
}


@pytest.fixture(params=BRANCHES)
def branch(request, monkeypatch):
    """Each implementation of the branch, on a CPU whatever it is meant for.

    The C kernels for the dtypes that they have, as everywhere.
    """
    if request.param == 'native' and native.kernels() is None:
        pytest.skip(f'C kernels: {native.description()}')

    def chosen(device, dtype):
        too_wide = request.param == 'native' and dtype not in native.DTYPES
        return BRANCHES['torch' if too_wide else request.param]

    monkeypatch.setattr(package, '_branch', chosen)
    return request.param


@pytest.fixture
def kept():
    """Bytes of each piece of memory that autograd keeps during the test, by its address."""
    kept = {}

    def pack(tensor):
        if tensor.numel():
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


def relative_error(value, exact):
    return ((value.double() - exact).abs().max() / exact.abs().max()).item()


def random_inputs(shape, channels, hidden, conv_dim, size, dtype=torch.float64):
    """x and the eight parameters."""
    inputs = (
        torch.randn(*shape, channels),
        1 + 0.3 * torch.randn(channels),
        torch.randn(channels),
        torch.randn(2 * hidden, channels) / channels**0.5,
        torch.randn(2 * hidden),
        torch.randn(conv_dim, 1, size, size) / size,
        torch.randn(conv_dim),
        torch.randn(channels, hidden) / hidden**0.5,
        torch.randn(channels),
    )
    return [tensor.to(dtype) for tensor in inputs]


def with_gradients(function, inputs, cotangent, activation='gelu'):
    """The output and the gradient of each input."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    y = function(*leaves, activation, EPS)
    return y.detach(), *torch.autograd.grad(y, leaves, cotangent)


def in_double(inputs, cotangent, activation='gelu'):
    double = [tensor.double() for tensor in inputs]
    return with_gradients(gated_cnn_reference, double, cotangent.double(), activation)


def assert_as_near(results, plain, exact):
    """No more than twice as far from float64 as the plain operations in the same dtypes.

    And one step of the dtype, without which luck would decide: few elements can be nearer than
    that. Luckier still can be the norm's gradients, sums of which PyTorch's LayerNorm makes much
    noise in bfloat16; their measure is the worst of the plain results.
    """
    dtype = results[0].dtype
    step = max(1e-6, torch.finfo(dtype).eps)
    errors = [relative_error(other, truth) for other, truth in zip(plain, exact, strict=True)]
    for name, result, other, truth, error in zip(NAMES, results, plain, exact, errors, strict=True):
        assert (result.dtype, result.shape) == (other.dtype, truth.shape), name
        if name.startswith('norm'):
            error = max(errors)
        limit = 1e-12 if dtype == torch.float64 else 2 * error + step
        assert relative_error(result, truth) < limit, name


def assert_agrees(inputs, activation='gelu'):
    """With and without gradients, which take different ways through the code."""
    cotangent = torch.randn_like(inputs[0])
    plain = with_gradients(gated_cnn_reference, inputs, cotangent, activation)
    exact = in_double(inputs, cotangent, activation)
    y, *grads = with_gradients(gated_cnn, inputs, cotangent, activation)
    assert_as_near((y, *grads), plain, exact)
    with torch.no_grad():
        assert_as_near((gated_cnn(*inputs, activation, EPS), *grads), plain, exact)


@pytest.mark.parametrize('activation', ['gelu', 'silu'])
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize('case', CASES)
def test_agrees_with_the_definition(case, dtype, activation, branch):
    assert_agrees(random_inputs(*CASES[case], dtype), activation)


def test_the_device_and_the_dtype_decide_what_computes(monkeypatch):
    cuda = torch.device('cuda')
    assert package._branch(torch.device('cpu'), torch.float64).passes is torch_passes
    for dtype in (torch.float32, torch.bfloat16):
        monkeypatch.setattr(native, 'kernels', object)
        assert package._branch(torch.device('cpu'), dtype).passes is native_passes
        monkeypatch.setattr(native, 'kernels', lambda: None)
        assert package._branch(torch.device('cpu'), dtype).passes is torch_passes
    assert package._branch(cuda, torch.float64).gate is plain_gate
    assert package._branch(torch.device('xpu'), torch.float32).gate is plain_gate
    pytest.importorskip('triton', minversion='3.3')
    assert package._branch(cuda, torch.bfloat16).gate.__name__.endswith('triton_gate')


def test_any_memory_layout(branch):
    inputs = random_inputs((2, 5, 4), 8, 16, 8, 3, torch.float32)
    inputs[0] = torch.randn(2, 8, 5, 4).permute(0, 2, 3, 1)  # a convolution's NCHW output
    assert_agrees(inputs)
    inputs[0] = torch.randn(2, 7, 9, 20)[:, 1:6, 2:6, 3:11]
    assert_agrees(inputs)


def test_the_gradient_of_a_sum(branch):
    """Which arrives expanded, with strides of 0."""
    inputs = random_inputs((2, 5, 4), 8, 16, 8, 3)
    ones = torch.ones_like(inputs[0])
    results = with_gradients(gated_cnn, inputs, ones[:1, :1, :1, :1].expand_as(ones))
    assert_as_near(results, results, in_double(inputs, ones))


STRIPS = [
    # Shape of the map, pixels per strip, images and rows of the strips that come of them.
    ((5, 3, 4), 24, [(2, 3), (2, 3), (1, 3)]),
    ((3, 3, 4), 12, [(1, 3)] * 3),
    ((2, 7, 5), 10, [(1, 2), (1, 2), (1, 2), (1, 1)] * 2),
    ((1, 3, 9), 1, [(1, 1)] * 3),
]


@pytest.mark.parametrize(('shape', 'pixels', 'parts'), STRIPS)
def test_strips_cover_the_map_once(shape, pixels, parts, monkeypatch):
    monkeypatch.setattr(cpu, 'STRIP_PIXELS', pixels)
    x = torch.zeros(*shape, 2)
    assert [tuple(x[strip].shape[:2]) for strip in cpu.strips(x)] == parts
    for strip in cpu.strips(x):
        x[strip] += 1
    assert torch.equal(x, torch.ones_like(x))


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(('shape', 'pixels', 'parts'), STRIPS)
def test_agrees_with_the_definition_in_strips(shape, pixels, parts, dtype, branch, monkeypatch):
    monkeypatch.setattr(cpu, 'STRIP_PIXELS', pixels)
    monkeypatch.setattr(torch_passes, 'STRIP_ELEMENTS', 8 * pixels)
    assert_agrees(random_inputs(shape, 6, 13, 8, 5, dtype))


@pytest.mark.parametrize(('hidden', 'conv_dim'), [(21, 8), (13, 5), (13, 13)])
@pytest.mark.parametrize(('dtype', 'limit'), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_padding_to_a_multiple_of_8_changes_rounding_only(
    hidden, conv_dim, dtype, limit, monkeypatch
):
    monkeypatch.setattr(package, '_branch', lambda device, dtype: BRANCHES['composed'])
    inputs = random_inputs((2, 5, 4), 8, hidden, conv_dim, 3, dtype)
    cotangent = torch.randn_like(inputs[0])
    padded = with_gradients(gated_cnn, inputs, cotangent)
    monkeypatch.setattr(composed, 'ALIGNMENT', 1)
    for name, a, b in zip(NAMES, padded, with_gradients(gated_cnn, inputs, cotangent), strict=True):
        assert relative_error(a, b.double()) < limit, name


@pytest.mark.parametrize(('hidden', 'padded'), [(21, 24), (13, 16), (16, 16)])
def test_composed_keeps_rows_of_an_aligned_width(hidden, padded):
    _, *parameters = random_inputs((2, 5, 4), 8, hidden, 8, 3)
    x = torch.randn(2, 5, 4, 8, dtype=torch.float64)
    _, h, rest = BRANCHES['composed'].forward(x, Parameters(*parameters), 'gelu', EPS, True)
    assert h.shape == (2, 5, 4, 2 * padded)
    assert rest.numel() == 0


@pytest.mark.parametrize('pixels', [8192, 10])
@pytest.mark.parametrize('hidden', [16, 21])
def test_fc1s_output_alone_is_kept_besides_the_inputs(hidden, pixels, branch, kept, monkeypatch):
    monkeypatch.setattr(cpu, 'STRIP_PIXELS', pixels)
    inputs = random_inputs((2, 7, 5), 8, hidden, 8, 3, torch.float32)
    gated_cnn(*(tensor.requires_grad_() for tensor in inputs), 'gelu', EPS)
    given = {tensor.data_ptr(): tensor.nbytes for tensor in inputs}
    assert given.items() <= kept.items()
    width = 24 if branch == 'composed' and hidden == 21 else hidden
    others = [size for address, size in kept.items() if address not in given]
    assert sum(others) == 4 * 2 * 7 * 5 * 2 * width


@pytest.mark.parametrize('why', ['no parameter asks for it', 'no_grad', 'inference_mode'])
def test_nothing_is_kept_without_gradients(why, branch, kept, monkeypatch):
    results = []
    forward = BRANCHES[branch].forward

    def recording(*args):
        results.append(forward(*args))
        return results[-1]

    monkeypatch.setattr(BRANCHES[branch], 'forward', recording)
    inputs = random_inputs((2, 7, 5), 8, 21, 8, 3, torch.float32)
    if why == 'no parameter asks for it':
        y = gated_cnn(*inputs, 'gelu', EPS)
    else:
        mode = torch.no_grad if why == 'no_grad' else torch.inference_mode
        inputs = [tensor.requires_grad_() for tensor in inputs]
        with mode():
            y = gated_cnn(*inputs, 'gelu', EPS)
    assert not y.requires_grad
    assert kept == {}
    (result,) = results
    assert [tensor.numel() for tensor in result] == [y.numel(), 0, 0]


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=str)
def test_autocast(dtype, branch):
    """Parameters of float32, as in training; x from a float32 or a bfloat16 operation."""
    inputs = random_inputs((2, 7, 5), 8, 21, 8, 3, torch.float32)
    inputs[0] = inputs[0].to(dtype)
    cotangent = torch.randn(2, 7, 5, 8).bfloat16()
    with torch.autocast('cpu', torch.bfloat16):
        results = with_gradients(gated_cnn, inputs, cotangent)
        plain = with_gradients(gated_cnn_reference, inputs, cotangent)
    assert results[0].dtype == torch.bfloat16
    assert [grad.dtype for grad in results[1:]] == [tensor.dtype for tensor in inputs]
    assert_as_near(results, plain, in_double(inputs, cotangent))


def test_autocast_leaves_float64_alone(branch):
    inputs = random_inputs((2, 3, 4), 8, 21, 8, 3)
    with torch.autocast('cpu', torch.bfloat16):
        y = gated_cnn(*inputs, 'gelu', EPS)
    assert torch.equal(y, gated_cnn(*inputs, 'gelu', EPS))


def test_parameters_wider_than_x(branch):
    """Without autocast, x decides."""
    inputs = random_inputs((2, 3, 4), 8, 21, 8, 3, torch.float32)
    inputs[0] = inputs[0].bfloat16()
    cotangent = torch.randn_like(inputs[0])
    with torch.autocast('cpu', torch.bfloat16):
        expected = with_gradients(gated_cnn, inputs, cotangent)
    results = with_gradients(gated_cnn, inputs, cotangent)
    for name, result, other in zip(NAMES, results, expected, strict=True):
        assert result.dtype == other.dtype, name
        assert torch.equal(result, other), name


@pytest.mark.parametrize(
    'trained', [{'x'}, {'fc2_weight'}, {'norm_weight', 'conv_bias'}, set(NAMES[2:])]
)
def test_frozen_inputs_get_no_gradient(trained, branch):
    inputs = random_inputs((2, 5, 4), 8, 21, 8, 3)
    expected = with_gradients(gated_cnn, inputs, torch.ones_like(inputs[0]))
    leaves = [
        tensor.requires_grad_(name in trained)
        for name, tensor in zip(NAMES[1:], inputs, strict=True)
    ]
    gated_cnn(*leaves, 'gelu', EPS).sum().backward()
    for name, leaf, other in zip(NAMES[1:], leaves, expected[1:], strict=True):
        if name in trained:
            assert relative_error(leaf.grad, other) < 1e-12, name
        else:
            assert leaf.grad is None, name


def test_every_element_is_written_before_it_is_read(branch, monkeypatch):
    def poisoned(allocate):
        return lambda *args, **kwargs: allocate(*args, **kwargs).fill_(float('nan'))

    monkeypatch.setattr(cpu, 'STRIP_PIXELS', 10)
    inputs = random_inputs((2, 7, 5), 8, 21, 8, 3, torch.float32)
    for owner, name in ((torch, 'empty'), (torch, 'empty_like'), (torch.Tensor, 'new_empty')):
        monkeypatch.setattr(owner, name, poisoned(getattr(owner, name)))
    assert torch.empty(1).isnan().all()
    assert_agrees(inputs)


def test_gradcheck(branch):
    inputs = [tensor.requires_grad_() for tensor in random_inputs((2, 1, 2), 2, 3, 2, 3)]
    assert torch.autograd.gradcheck(gated_cnn, (*inputs, 'gelu', EPS))


opcheck = needs_torch('2.4', 'opcheck')


@opcheck
@pytest.mark.parametrize('keep', [False, True])
def test_is_a_well_behaved_operator(keep, branch):
    inputs = random_inputs((2, 3, 2), 4, 13, 4, 3, torch.float32)
    inputs = [tensor.requires_grad_(keep) for tensor in inputs]
    arguments = (*inputs, 'gelu', EPS, keep)
    library.opcheck(torch.ops.mambaout_mm.gated_cnn, arguments)


@opcheck
@pytest.mark.parametrize('layout', ['contiguous', 'permuted NCHW'])
@pytest.mark.parametrize('hidden', [13, 16])
def test_its_backward_is_a_well_behaved_operator(hidden, layout, branch):
    x, *parameters = random_inputs((2, 3, 2), 4, hidden, 4, 3, torch.float32)
    if layout == 'permuted NCHW':
        x = torch.randn(2, 4, 3, 2).permute(0, 2, 3, 1)
    _, *saved = BRANCHES[branch].forward(x, Parameters(*parameters), 'gelu', EPS, True)
    arguments = (torch.randn_like(x), x, *parameters, *saved, 'gelu', EPS)
    library.opcheck(torch.ops.mambaout_mm.gated_cnn_backward, arguments)


def test_compiles_to_one_graph_for_changing_sizes(branch):
    def model(*inputs):
        return (gated_cnn(*inputs).sigmoid() ** 2).sum()

    compiled = torch.compile(model, backend='aot_eager', fullgraph=True, dynamic=True)
    for shape in ((2, 5, 6), (3, 8, 4)):
        inputs = random_inputs(shape, 4, 13, 5, 3)
        expected = with_gradients(model, inputs, None)
        for name, a, b in zip(NAMES, with_gradients(compiled, inputs, None), expected, strict=True):
            assert torch.allclose(a, b, rtol=1e-12, atol=1e-12), name


def test_checkpointing_gives_the_same_gradients(branch):
    x, *parameters = random_inputs((2, 5, 4), 8, 21, 8, 3, torch.float32)
    parameters = [parameter.requires_grad_() for parameter in parameters]

    def layer(x):
        return gated_cnn(x, *parameters, 'gelu', EPS)

    expected = torch.autograd.grad(layer(x).sum(), parameters)
    y = checkpoint(layer, x, use_reentrant=False)
    for name, a, b in zip(
        NAMES[2:], torch.autograd.grad(y.sum(), parameters), expected, strict=True
    ):
        assert torch.equal(a, b), name


@pytest.mark.parametrize(
    ('name', 'change'),
    [
        ('x', lambda x: x[0]),
        ('x', lambda x: x[..., :5]),
        ('norm_weight', lambda x: x[:1]),
        ('norm_bias', lambda x: x[None]),
        ('fc1_weight', lambda x: x.t()),
        ('fc1_weight', lambda x: x[:-1]),
        ('fc1_bias', lambda x: x[:16]),
        ('conv_weight', lambda x: x.repeat(1, 6, 1, 1)),  # dense: it would take wrong taps on CUDA
        ('conv_weight', lambda x: x[..., :2]),
        ('conv_weight', lambda x: x[..., :2, :2]),
        ('conv_weight', lambda x: x.repeat(3, 1, 1, 1)),
        ('conv_weight', lambda x: x[:0]),
        ('conv_weight', lambda x: x[0]),
        ('conv_bias', lambda x: x[:1]),
        ('fc2_weight', lambda x: x[:, :-1]),
        ('fc2_weight', lambda x: x[0]),
        ('fc2_bias', lambda x: x[:1]),
    ],
)
@pytest.mark.parametrize('grad', [False, True])
def test_shapes_that_do_not_fit_are_named(name, change, grad):
    inputs = dict(zip(NAMES[1:], random_inputs(*CASES['odd sides']), strict=True))
    inputs[name] = change(inputs[name])
    if name == 'conv_weight' and len(inputs[name]) in (0, 18):
        inputs['conv_bias'] = torch.zeros(len(inputs[name]))  # no channels, or more than fc2 takes
    shape = re.escape(f'{name} {tuple(inputs[name].shape)}')
    with torch.set_grad_enabled(grad), pytest.raises(ValueError, match=f'needs x .* got .*{shape}'):
        gated_cnn(*inputs.values(), 'gelu', EPS)


def test_an_unknown_activation_is_refused():
    with pytest.raises(ValueError, match="activation is 'gelu' or 'silu', got 'relu'"):
        gated_cnn(*random_inputs(*CASES['odd sides']), 'relu', EPS)


def test_integers_are_refused():
    x, *parameters = random_inputs(*CASES['odd sides'])
    with pytest.raises(TypeError, match='x is torch.int64, not a floating-point dtype'):
        gated_cnn(x.long(), *parameters, 'gelu', EPS)
