"""Token mixers in MambaOut's body, against plain loops in float64."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mambaout_mm import MambaOut
from mambaout_mm.backbones.gated_blocks import BLOCKS, ConvSSMBlock, GatedCNNBlock, SSMBlock
from mambaout_mm.backbones.map_mixers import MapAttention, MapSSM
from mambaout_mm.checkpoints import CheckpointError

SMALL = dict(depths=(1, 1, 2, 1), dims=(8, 16, 24, 32))
HEIGHT, WIDTH = 3, 4


def block_of(mixer, dim=8, **options):
    block = BLOCKS[mixer](dim, 8 / 3, 1.0, 3, 'gelu', None, 0.0, **options).double()
    for name, parameter in block.named_parameters():  # zeros and ones would hide errors
        if 'A_logs' not in name:
            nn.init.normal_(parameter, std=0.3)
    return block


def orders(directions):
    """Places of the tokens of a map, row by row, in the order of each direction."""
    places = torch.arange(HEIGHT * WIDTH).view(HEIGHT, WIDTH)
    rows, columns = places.flatten(), places.t().flatten()
    return {
        'causal': [rows],
        'bidirectional': [rows, rows.flip(0)],
        'cross': [rows, columns, rows.flip(0), columns.flip(0)],
    }[directions]


def scan_step_by_step(ssm, tokens):
    """The mean over the directions of Mamba's recurrence (arXiv 2312.00752), token by token.

    ``tokens`` are (L, D), as is the result.
    """
    total = torch.zeros_like(tokens)
    order = orders(ssm.directions)
    channels, states = tokens.shape[1], ssm.A_logs.shape[1]
    rank = ssm.dt_projs_weight.shape[2]
    for k, places in enumerate(order):
        A = -torch.exp(ssm.A_logs.view(len(order), channels, states)[k])
        skip = ssm.Ds.view(len(order), channels)[k]
        h = torch.zeros(channels, states, dtype=tokens.dtype)
        for place in places:
            x = tokens[place]
            numbers = ssm.x_proj_weight[k] @ x
            step = F.softplus(ssm.dt_projs_weight[k] @ numbers[:rank] + ssm.dt_projs_bias[k])[
                :, None
            ]
            B, C = numbers[rank : rank + states], numbers[rank + states :]
            h = torch.exp(step * A) * h + step * B * x[:, None]
            total[place] += h @ C + skip * x
    return total / len(order)


@pytest.mark.parametrize('directions', ['causal', 'bidirectional', 'cross'])
@pytest.mark.parametrize('mixer', ['ssm', 'conv+ssm'])
def test_a_block_with_an_ssm_equals_a_loop_over_tokens(mixer, directions):
    torch.manual_seed(0)
    block = block_of(mixer, directions=directions, d_state=2, dt_rank=3)
    x = torch.randn(1, HEIGHT, WIDTH, 8, dtype=torch.float64)
    with torch.no_grad():
        g, i, c = block.fc1(block.norm(x)).split((21, 13, 8), dim=-1)
        c = block.conv(c.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        y = scan_step_by_step(block.ssm, F.gelu(c[0].flatten(0, 1))).view_as(c)
        mixed = y if mixer == 'ssm' else c + block.ssm.gamma * y
        expected = x + block.fc2(F.gelu(g) * torch.cat((i, mixed), dim=-1))
        torch.testing.assert_close(block(x), expected, rtol=1e-10, atol=1e-10)


def test_an_identity_block_equals_its_formula():
    block = block_of('identity')
    x = torch.randn(1, HEIGHT, WIDTH, 8, dtype=torch.float64)
    g, rest = block.fc1(block.norm(x)).split((21, 21), dim=-1)
    torch.testing.assert_close(block(x), x + block.fc2(F.gelu(g) * rest))
    assert not any('conv' in name for name, _ in block.named_parameters())


@pytest.mark.parametrize('causal', [False, True])
def test_attention_equals_its_definition(causal):
    torch.manual_seed(0)
    attention = MapAttention(64, causal).double()
    assert attention.num_heads == 2
    x = torch.randn(2, HEIGHT, WIDTH, 64, dtype=torch.float64)
    q, k, v = attention.qkv(x).flatten(1, 2).chunk(3, dim=-1)  # (2, L, 64) each
    row = torch.arange(HEIGHT, dtype=torch.float64).repeat_interleave(WIDTH)
    column = torch.arange(WIDTH, dtype=torch.float64).repeat(HEIGHT)
    # Of 32 channels, 8 pairs turn by the row and 8 by the column, each pair slower than the last
    speeds = 100 ** (-torch.arange(8, dtype=torch.float64) / 8)
    turns = torch.polar(
        torch.ones(1, dtype=torch.float64),
        torch.cat((row[:, None] * speeds, column[:, None] * speeds), dim=1),
    )  # (L, 16)
    outs = []
    for head in range(2):
        part = slice(32 * head, 32 * (head + 1))
        turned = [
            torch.view_as_real(
                torch.view_as_complex(z[..., part].unflatten(-1, (16, 2)).contiguous()) * turns
            ).flatten(-2)
            for z in (q, k)
        ]
        weights = turned[0] @ turned[1].transpose(1, 2) / 32**0.5
        if causal:
            later = torch.ones(HEIGHT * WIDTH, HEIGHT * WIDTH).triu(1).bool()
            weights = weights.masked_fill(later, -torch.inf)
        outs.append(weights.softmax(-1) @ v[..., part])
    expected = torch.cat(outs, dim=-1).unflatten(1, (HEIGHT, WIDTH))
    torch.testing.assert_close(attention(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('mixer', [MapSSM(8, 'causal'), MapAttention(8, causal=True)])
def test_a_causal_mixer_sees_no_later_token(mixer):
    x = torch.randn(1, HEIGHT, WIDTH, 8)
    changed = x.clone()
    changed[:, 1, 2] += 1
    before, after = mixer(x).flatten(1, 2), mixer(changed).flatten(1, 2)
    place = WIDTH + 2
    torch.testing.assert_close(before[:, :place], after[:, :place])
    assert (before[:, place:] - after[:, place:]).abs().amax(-1).min() > 0


@pytest.mark.parametrize(
    'channels, heads', [(16, 1), (48, 1), (64, 2), (96, 3), (104, 2), (576, 18)]
)
def test_heads_of_attention_have_32_channels_or_more(channels, heads):
    assert MapAttention(channels).num_heads == heads


def test_conv_ssm_starts_as_mambaout_bit_for_bit():
    torch.manual_seed(0)
    plain = MambaOut(SMALL, fused=False)
    both = MambaOut(SMALL, mixer='conv+ssm')
    weights, fresh = both.match_checkpoint(plain.state_dict())
    both.load_state_dict(weights, strict=False)
    image = torch.randn(2, 3, 64, 80)
    for a, b in zip(plain(image), both(image), strict=True):
        assert torch.equal(a, b)
    assert fresh == [f'stages.{i}.{j}.ssm' for i, j in ((0, 0), (1, 0), (2, 0), (2, 1), (3, 0))]


def test_conv_ssm_leaves_its_start_when_it_is_trained():
    torch.manual_seed(0)
    block = ConvSSMBlock(8, 8 / 3, 1.0, 3, 'gelu', None, 0.0)
    optimizer = torch.optim.SGD(block.parameters(), lr=0.1)
    moved = []
    for _ in range(2):
        optimizer.zero_grad()
        block(torch.randn(1, HEIGHT, WIDTH, 8)).square().sum().backward()
        moved.append(block.ssm.x_proj_weight.grad.abs().max().item())
        optimizer.step()
    assert moved[0] == 0 and moved[1] > 0  # gamma first, which lets gradients into the SSM
    assert block.ssm.gamma.abs().min() > 0


@pytest.mark.parametrize('mixer', ['ssm', 'attention', 'identity'])
def test_other_mixers_do_not_start_from_weights_of_another_function(mixer):
    with pytest.raises(CheckpointError, match='does not fit this model'):
        MambaOut(SMALL, mixer=mixer).match_checkpoint(MambaOut(SMALL).state_dict())


def test_mambaout_does_not_drop_a_trained_ssm_without_a_word():
    with pytest.raises(CheckpointError, match=r'stages\.0\.0\.ssm'):
        MambaOut(SMALL).match_checkpoint(MambaOut(SMALL, mixer='conv+ssm').state_dict())


def test_each_stage_has_its_mixer():
    backbone = MambaOut(SMALL, mixer=['conv', 'conv', dict(type='ssm', d_state=2), 'conv+ssm'])
    kinds = [type(stage[0]) for stage in backbone.stages]
    assert kinds == [GatedCNNBlock, GatedCNNBlock, SSMBlock, ConvSSMBlock]
    assert backbone.stages[2][1].ssm.A_logs.shape == (4 * 24, 2)
    _, fresh = MambaOut(SMALL, mixer=['conv'] * 3 + ['conv+ssm']).match_checkpoint(
        MambaOut(SMALL).state_dict()
    )
    assert fresh == ['stages.3.0.ssm']


@pytest.mark.parametrize(
    'mixer, message',
    [
        ('convv', r"unknown token mixer 'convv'; did you mean conv, conv\+ssm"),
        (dict(directions='cross'), 'unknown type None of token mixer; known: '),
        (
            dict(type='ssm', direction='causal'),
            "'direction' of the token mixer 'ssm'; did you mean",
        ),
        (dict(type='conv', d_state=1), "option 'd_state' of the token mixer 'conv'; it has none"),
        (dict(type='ssm', directions='sideways'), "directions 'sideways' of an SSM"),
        (dict(type='ssm', d_state=0), 'd_state must be a positive integer, got 0'),
        (dict(type='ssm', dt_rank=1.5), r'dt_rank must be a positive integer, got 1\.5'),
        (['conv', 'ssm'], 'one for all stages or four, got 2'),
    ],
)
def test_a_wrong_mixer_is_named(mixer, message):
    with pytest.raises(ValueError, match=message):
        MambaOut(SMALL, mixer=mixer)


def test_attention_says_which_widths_it_takes():
    with pytest.raises(ValueError, match='multiples of 4 channels; got 10'):
        MapAttention(10)
