"""Depthwise convolutions in C against PyTorch's in float64."""

import pytest
import torch
from torch import nn

from mambaout_mm.backbones.depthwise import DepthwiseConv2d
from mambaout_mm.ops import depthwise, native
from mambaout_mm.ops.depthwise import depthwise_conv, depthwise_conv_reference
from mambaout_mm.ops.modes import references

needs_kernels = pytest.mark.skipif(
    native.kernels() is None, reason=f'C kernels: {native.description()}'
)
LIMITS = {torch.float32: 2e-6, torch.bfloat16: 2**-7}
CASES = {  # (N, C, H, W) and the kernel's side
    'one pixel': ((1, 1, 1, 1), 7),
    'below the kernel': ((2, 5, 2, 3), 7),
    'parts of vectors': ((2, 37, 9, 11), 3),
    'more rows than a band': ((1, 20, 37, 10), 5),
    'a point for a kernel': ((2, 16, 5, 4), 1),
}


def with_gradients(function, x, weight, bias, cotangent):
    leaves = [tensor.detach().requires_grad_() for tensor in (x, weight, bias)]
    y = function(*leaves)
    return y.detach(), *torch.autograd.grad(y, leaves, cotangent)


def random_inputs(case, dtype, layout=torch.channels_last):
    torch.manual_seed(0)
    shape, size = CASES[case]
    x, cotangent = (torch.randn(shape).to(dtype, memory_format=layout) for _ in range(2))
    return (
        x,
        torch.randn(shape[1], 1, size, size).to(dtype),
        torch.randn(shape[1]).to(dtype),
        cotangent,
    )


@needs_kernels
@pytest.mark.parametrize('layout', [torch.channels_last, torch.contiguous_format], ids=str)
@pytest.mark.parametrize('dtype', LIMITS, ids=str)
@pytest.mark.parametrize('case', CASES)
def test_agrees_with_float64(case, dtype, layout):
    inputs = random_inputs(case, dtype, layout)
    results = with_gradients(depthwise_conv, *inputs)
    exact = with_gradients(depthwise_conv_reference, *(x.double() for x in inputs))
    for result, truth in zip(results, exact, strict=True):
        assert (result.dtype, result.shape) == (dtype, truth.shape)
        assert (result.double() - truth).abs().max() < LIMITS[dtype] * truth.abs().max()


@needs_kernels
def test_frozen_inputs_get_no_gradient_and_the_others_the_same():
    x, weight, bias, cotangent = random_inputs('parts of vectors', torch.float32)
    expected = with_gradients(depthwise_conv, x, weight, bias, cotangent)[1:]
    for trained in range(3):
        leaves = [x, weight, bias]
        leaves[trained] = leaves[trained].detach().requires_grad_()
        (grad,) = torch.autograd.grad(depthwise_conv(*leaves), leaves[trained], cotangent)
        assert torch.equal(grad, expected[trained])


@needs_kernels
def test_second_derivatives():
    x, weight, bias, _ = random_inputs('parts of vectors', torch.float32)

    def penalty(function):
        leaves = [tensor.detach().requires_grad_() for tensor in (x, weight, bias)]
        y = function(*leaves).square().sum()
        grads = torch.autograd.grad(y, leaves, create_graph=True)
        return torch.autograd.grad(sum(grad.square().sum() for grad in grads), leaves)

    for a, b in zip(penalty(depthwise_conv), penalty(depthwise_conv_reference), strict=True):
        assert (a - b).abs().max() < 1e-5 * b.abs().max()


@pytest.fixture
def plain_calls(monkeypatch):
    """Counts of calls of the plain operations."""
    counted, plain = [], depthwise_conv_reference
    monkeypatch.setattr(
        depthwise, 'depthwise_conv_reference', lambda *args: counted.append(1) or plain(*args)
    )
    return counted


@needs_kernels
def test_what_the_kernels_do_not_take_is_plain(plain_calls):
    x, weight, bias, _ = random_inputs('parts of vectors', torch.float32)
    depthwise_conv(x, weight, bias)
    assert not plain_calls
    depthwise_conv(x.double(), weight.double(), bias.double())
    depthwise_conv(x[:0], weight, bias)
    with references():
        depthwise_conv(x, weight, bias)
    with native.off():
        depthwise_conv(x, weight, bias)
    assert len(plain_calls) == 4


def test_autocast_computes_in_bfloat16():
    x, weight, bias, _ = random_inputs('parts of vectors', torch.float32)
    with torch.autocast('cpu', torch.bfloat16):
        y, plain = (f(x, weight, bias) for f in (depthwise_conv, depthwise_conv_reference))
    assert y.dtype == plain.dtype == torch.bfloat16
    torch.testing.assert_close(y, plain, rtol=2**-6, atol=2**-5)


@pytest.mark.parametrize('bias', [True, False])
def test_the_layer_is_a_convolution_to_everybody_else(bias):
    layer, plain = DepthwiseConv2d(6, 3, bias), nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=bias)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(2, 6, 5, 7)
    assert isinstance(layer, nn.Conv2d)
    torch.testing.assert_close(layer(x), plain(x))
    traced = torch.jit.trace(layer, x, check_trace=False)
    assert 'aten::_convolution' in str(traced.inlined_graph)
    compiled = torch.compile(layer, backend='aot_eager', fullgraph=True)
    torch.testing.assert_close(compiled(x), plain(x))


def test_shapes_that_do_not_fit():
    x = torch.randn(1, 4, 5, 5)
    with pytest.raises(ValueError, match='needs a weight \\(4, 1, k, k\\) with odd k'):
        depthwise_conv(x, torch.randn(4, 1, 2, 2))
    with pytest.raises(ValueError, match='needs a weight'):
        depthwise_conv(x, torch.randn(4, 4, 3, 3))
    with pytest.raises(ValueError, match='needs a bias \\(4,\\), got \\(3,\\)'):
        depthwise_conv(x, torch.randn(4, 1, 3, 3), torch.randn(3))
