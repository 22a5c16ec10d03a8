"""The passes over the gate on a CPU, where the whole branch's tests do not reach: odd strips."""

import pytest
import torch

from mambaout_mm.ops.gated_cnn import torch_passes
from mambaout_mm.ops.gated_cnn.cpu import convolve

# Shape of the map (N, H, W, C), elements in a strip
STRIPS = {
    'all in one call': ((3, 7, 6, 4), 1 << 19),
    'two images side by side, and one left over': ((5, 4, 6, 4), 2 * 96),
    'two rows, lower than the kernel, and one left over': ((2, 7, 6, 4), 2 * 24),
    'four rows, and one left over': ((2, 9, 6, 4), 4 * 24 + 5),
    'one row is already more than a call should have': ((1, 3, 50, 64), 1000),
}
LIMITS = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 2**-6}


@pytest.mark.parametrize('dtype', LIMITS, ids=str)
@pytest.mark.parametrize('size', [1, 3, 7])
@pytest.mark.parametrize(('shape', 'elements'), STRIPS.values(), ids=STRIPS)
def test_weight_gradient_in_strips(shape, elements, size, dtype, monkeypatch):
    """oneDNN rounds each call's result to bfloat16; the results add up in float32."""
    monkeypatch.setattr(torch_passes, 'STRIP_ELEMENTS', elements)
    c, grad = (torch.randn(shape).to(dtype) for _ in range(2))
    weight = torch.zeros(shape[-1], 1, size, size, dtype=torch.float64, requires_grad=True)
    y = convolve(c.double(), weight, None)
    exact = torch.autograd.grad(y, weight, grad.double())[0]
    result, _ = torch_passes.conv_gradients(c, grad, size)
    assert result.shape == weight.shape
    assert result.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert (result.double() - exact).abs().max() < LIMITS[dtype] * exact.abs().max()
