"""Whether fast operators that compute something else are seen."""

import pytest
import torch

from mambaout_mm import MambaOut, VMamba
from mambaout_mm.measure.parity import check_parity
from mambaout_mm.ops import gated_cnn, selective_scan

SMALL = dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32))


@pytest.mark.parametrize('dtype', ['fp32', 'bf16'])
@pytest.mark.parametrize('family', [MambaOut, VMamba])
def test_parity_of_the_operators(family, dtype):
    model = family(SMALL).eval()
    assert check_parity(model, 'cpu', dtype) == ''
    assert all(p.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize(
    ('family', 'backend'),
    [(MambaOut, gated_cnn.Strips), (VMamba, selective_scan._implementation(torch.empty(0)))],
    ids=['MambaOut', 'VMamba'],
)
@pytest.mark.parametrize('dtype', ['fp32', 'bf16'])
def test_parity_sees_an_operator_that_computes_something_else(family, backend, dtype, monkeypatch):
    exact = backend.forward

    def wrong(*inputs, **options):
        y, *kept = exact(*inputs, **options)
        return y.roll(1, -1), *kept

    monkeypatch.setattr(backend, 'forward', wrong)
    model = family(SMALL).eval()
    assert check_parity(model, 'cpu', dtype).startswith('failed: its operators are off by')
