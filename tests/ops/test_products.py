"""Matrix products by oneDNN against PyTorch's own."""

import time

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mambaout_mm.ops import products
from mambaout_mm.ops.modes import references

needs_onednn = pytest.mark.skipif(
    not products.has_onednn(torch.float32), reason='needs AVX-512 and a PyTorch with oneDNN'
)


@pytest.fixture
def calls(monkeypatch):
    """Counts of oneDNN's products."""
    counted, linear = [], products.linear
    monkeypatch.setattr(products, 'linear', lambda *args: counted.append(1) or linear(*args))
    return counted


@pytest.mark.parametrize('layout', ['rows', 'columns', 'a part of each row'])
def test_products_over_rows_in_either_shape(layout):
    def rows(width):
        if layout == 'rows':
            return torch.randn(2, 5, 4, width)
        if layout == 'columns':
            return torch.randn(2, 5, width, 4).transpose(2, 3)
        return torch.randn(2, 5, 4, 2 * width)[..., :width]

    for a, b in ((3, 7), (7, 3)):
        left, right = rows(a), rows(b)
        expected = left.flatten(0, 2).t() @ right.flatten(0, 2)
        torch.testing.assert_close(products.matmul_over_rows(left, right), expected)


@needs_onednn
@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('shape', [(6, 5), (2, 3, 4, 5)])
def test_layers_give_the_same_with_gradients(shape, bias, calls):
    layer, x = nn.Linear(5, 7, bias), torch.randn(shape, requires_grad=True)
    inputs = [x, *layer.parameters()]
    y = layer(x)
    expected = y, *torch.autograd.grad(y.square().sum(), inputs)
    assert not calls
    with products.linear_layers_by_onednn():
        y = layer(x)
        assert len(calls) == 1
    found = y, *torch.autograd.grad(y.square().sum(), inputs)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)
    assert F.linear is products._plain_linear


@needs_onednn
def test_rows_that_lie_apart_are_not_slow():
    """oneDNN took three seconds for this product of such rows, and takes milliseconds of others."""
    x = torch.randn(1000, 2 * 768)[:, :768]
    started = time.perf_counter()
    products.matmul_over_rows(x, torch.randn(1000, 384))
    products.linear(x, torch.randn(384, 768), None)
    products.matmul(x, torch.randn(768, 384))
    assert time.perf_counter() - started < 1


@needs_onednn
def test_a_second_derivative():
    layer, x = nn.Linear(3, 4), torch.randn(5, 3, requires_grad=True)

    def penalty():
        (grad,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), (x, layer.weight))

    expected = penalty()
    with products.linear_layers_by_onednn():
        for a, b in zip(penalty(), expected, strict=True):
            torch.testing.assert_close(a, b)


@needs_onednn
def test_everything_else_stays_with_pytorch(calls):
    with products.linear_layers_by_onednn():
        nn.Linear(3, 4).double()(torch.randn(2, 3).double())
        nn.Linear(3, 4)(torch.randn(0, 3))
        nn.Linear(3, 4)(torch.randn(3))
        with torch.autocast('cpu', torch.bfloat16):
            assert nn.Linear(3, 4)(torch.randn(2, 3)).dtype == torch.bfloat16
        with references():
            nn.Linear(3, 4)(torch.randn(2, 3))
        traced = torch.jit.trace(nn.Linear(3, 4), torch.randn(2, 3), check_trace=False)
    assert 'aten::linear' in str(traced.inlined_graph)
    assert not calls
