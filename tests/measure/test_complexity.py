"""The counting rule, on parts whose cost is known."""

import pytest
import torch
from mmengine.analysis import FlopAnalyzer
from timm.layers import Attention
from torch import nn

from mambaout_mm import MambaOut
from mambaout_mm.compat.flop_counter import OP_HANDLES, scan_in_pairs
from mambaout_mm.measure.complexity import count_by_operator, count_macs
from mambaout_mm.ops.selective_scan import selective_scan


class Scan(nn.Module):
    """A scan of 2 groups of 3 channels with ``state`` states, all from its input's shape."""

    def __init__(self, state, skip):
        super().__init__()
        self.state, self.skip = state, skip

    def forward(self, u):
        vectors = u.new_ones(u.shape[0], 2, self.state, u.shape[2])
        D = u.new_ones(6) if self.skip else None
        return selective_scan(u, u, -u.new_ones(6, self.state), vectors, vectors, D)


@pytest.mark.parametrize(('state', 'skip'), [(1, True), (16, True), (4, False)])
def test_a_scan_counts_nine_for_each_state_and_one_for_the_skip(state, skip):
    macs = count_macs(Scan(state, skip).eval(), torch.zeros(2, 6, 50))
    assert macs == (9 * state + skip) * 2 * 6 * 50


@pytest.mark.parametrize(('state', 'skip'), [(1, True), (16, True), (4, False)])
def test_a_scan_in_pairs_counts_its_multiplications(state, skip):
    """Of the recurrence as plain loops write it, for one channel and one step."""
    multiplications = 0
    for _ in range(state):
        multiplications += 1  # delta * A, whose exponential counts nothing
        multiplications += 1  # (delta * u) * B
        multiplications += 1  # decay * h, to which that is added
        multiplications += 1  # C * h, added up to y
    multiplications += 1  # delta * u
    multiplications += skip  # D * u, added to y
    image = torch.zeros(2, 6, 50)
    by_operator = count_by_operator(Scan(state, skip).eval(), image, scan_in_pairs)
    assert by_operator == {'selective_scan': multiplications * 2 * 6 * 50}


def test_the_handles_teach_an_analyzer_of_ones_own_and_no_other():
    model, u = Scan(1, True).eval(), torch.zeros(1, 6, 50)
    assert FlopAnalyzer(model, u).set_op_handle(**OP_HANDLES).total() == 10 * 6 * 50
    assert FlopAnalyzer(model, u).total() == 0


@pytest.mark.parametrize('fused', [True, False])
def test_attention_counts_its_two_products(fused):
    attention = Attention(16, num_heads=2).eval()
    attention.fused_attn = fused
    macs = count_macs(attention, torch.zeros(3, 10, 16))
    projections = 3 * 10 * 16 * (3 * 16 + 16)
    assert macs == projections + 2 * 3 * 10 * 10 * 16


def test_the_modules_of_a_block_are_counted_by_name():
    by_module = FlopAnalyzer(MambaOut('femto').eval(), torch.zeros(1, 3, 64, 96)).by_module()
    pixels, dim, hidden = 16 * 24, 48, 128
    assert by_module['stages.0.0.fc1'] == pixels * dim * 2 * hidden
    assert by_module['stages.0.0.conv'] == pixels * dim * 7 * 7
    assert by_module['stages.0.0.fc2'] == pixels * hidden * dim
