"""Names that PyTorch lacks in old versions, where they can be had beside PyTorch's own."""

import pytest
import torch
from torch import Tensor

from mambaout_mm.ops import torch_versions


@pytest.fixture(scope='module')
def operator():
    """``x * factor + shift`` as PyTorch before 2.4 gets an operator."""

    def forward(
        x: Tensor, shift: Tensor | None, factor: float, flip: bool, name: str
    ) -> tuple[Tensor, Tensor]:
        return (-x if flip else x) * factor + (0 if shift is None else shift), x.new_ones(1)

    made = torch_versions._Operator('mambaout_mm_test::scaled', forward)
    made.register_fake(lambda x, *_: (torch.empty_like(x), x.new_empty(1)))

    def setup_context(ctx, inputs, output):
        _, shift, ctx.factor, ctx.flip, _ = inputs
        ctx.has_shift = shift is not None

    def backward(ctx, grad, _):
        grad_x = grad * (-ctx.factor if ctx.flip else ctx.factor)
        return grad_x, grad if ctx.has_shift else None, None, None, None

    made.register_autograd(backward, setup_context=setup_context)
    yield torch.ops.mambaout_mm_test.scaled
    del made  # with which the operator goes


@pytest.mark.parametrize('with_shift', [False, True])
def test_an_operator_of_the_library_is_differentiable(with_shift, operator):
    x = torch.rand(3, dtype=torch.float64, requires_grad=True)
    shift = torch.rand(3, dtype=torch.float64, requires_grad=True) if with_shift else None
    y, ones = operator(x, shift, 2.5, True, 'any')
    torch.testing.assert_close(y, -2.5 * x + (shift if with_shift else 0))
    assert ones.tolist() == [1]
    torch.autograd.gradcheck(lambda *given: operator(*given, 2.5, True, 'any')[0], (x, shift))
    with torch.no_grad():
        assert not operator(x, shift, 2.5, True, 'any')[0].requires_grad


def test_an_operator_of_the_library_has_shapes_without_results(operator):
    y, _ = operator(torch.rand(2, 3, device='meta'), None, 2.5, False, 'any')
    assert y.is_meta and y.shape == (2, 3)


def test_its_schema_is_read_from_the_function(operator):
    assert str(operator.default._schema) == (
        'mambaout_mm_test::scaled(Tensor x, Tensor? shift, float factor, bool flip, str name) -> '
        '(Tensor, Tensor)'
    )


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float64])
def test_rms_norm(dtype):
    x = torch.randn(2, 5, 8, dtype=dtype)
    norm = torch_versions.RMSNorm(8, eps=1e-5).to(dtype)
    torch.nn.init.uniform_(norm.weight)
    exact = x.double()
    exact = exact / (exact.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm.weight.double()
    y = norm(x)
    assert y.dtype == dtype
    bound = dict(rtol=1e-2, atol=1e-2) if dtype == torch.bfloat16 else {}
    torch.testing.assert_close(y, exact.to(dtype), **bound)


@pytest.mark.parametrize('enabled', [False, True])
def test_autocast_of_a_cpu(enabled):
    with torch.autocast('cpu', torch.bfloat16, enabled=enabled):
        assert torch_versions.is_autocast_enabled('cpu') == enabled
        assert not torch_versions.is_autocast_enabled('cuda')
        assert torch_versions.get_autocast_dtype('cpu') == torch.bfloat16


def test_gelu_reads_a_gradient_of_any_layout():
    """PyTorch 2.1's own does not."""
    x = torch.randn(1, 8, 6, 4, dtype=torch.float32, requires_grad=True)
    grad = torch.randn(1, 4, 8, 6).permute(0, 2, 3, 1)
    assert grad.shape == x.shape and not grad.is_contiguous()
    (found,) = torch.autograd.grad(torch_versions.GELU()(x), x, grad)
    wide = x.detach().double().requires_grad_()
    (exact,) = torch.autograd.grad(torch.nn.functional.gelu(wide), wide, grad.double())
    torch.testing.assert_close(found, exact.float())
