"""What a machine can do."""

import pytest
import torch

from mambaout_mm.measure.machine import copy_rate, matmul_rate


@pytest.mark.parametrize(
    'measure',
    [copy_rate, lambda device: matmul_rate(device, torch.float32)],
    ids=['copy', 'matmul'],
)
def test_rates_are_those_of_a_computer(measure):
    assert 1e8 < measure('cpu') < 1e14
