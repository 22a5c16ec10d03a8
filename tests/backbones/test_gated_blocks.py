"""When a Gated CNN block runs as one operator, and when its modules are called one by one."""

import pytest
import torch
from torch import nn

from mambaout_mm import MambaOut
from mambaout_mm.backbones import gated_blocks
from mambaout_mm.backbones.gated_blocks import GatedBlock, GatedCNNBlock

PARTS = ('norm', 'fc1', 'act', 'conv', 'fc2')


class Adapter(nn.Module):
    """Adds a constant to what a module gives."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x) + 1


@pytest.fixture
def block():
    block = GatedCNNBlock(8, 8 / 3, 1.0, 7, 'gelu', layer_scale=None, drop_path=0.0)
    for parameter in block.parameters():  # biases of 0 and norms of 1 would hide errors
        nn.init.normal_(parameter, std=0.3)
    return block


@pytest.fixture
def operator_calls(monkeypatch):
    """The outputs of the operator, as the block called it."""
    outputs = []
    operator = gated_blocks.gated_cnn

    def recording(*args):
        outputs.append(operator(*args))
        return outputs[-1]

    monkeypatch.setattr(gated_blocks, 'gated_cnn', recording)
    return outputs


def by_hand(block, x, **replaced):
    """The branch's definition, a module of it replaced or not, and the residual connection."""
    part = {name: replaced.get(name, getattr(block, name)) for name in PARTS}
    hidden = block.fc2.in_features
    inner = hidden - block.conv.in_channels
    h = part['fc1'](part['norm'](x))
    g, i, c = h[..., :hidden], h[..., hidden : hidden + inner], h[..., hidden + inner :]
    c = part['conv'](c.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return x + part['fc2'](part['act'](g) * torch.cat((i, c), dim=-1))


@pytest.mark.parametrize('activation', ['gelu', 'silu'])
@pytest.mark.parametrize('layer_scale', [None, 0.5])
def test_as_built_it_is_one_operator_equal_to_its_modules(activation, layer_scale, operator_calls):
    block = GatedCNNBlock(8, 8 / 3, 1.0, 7, activation, layer_scale, drop_path=0.0).double()
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.3)
    x = torch.randn(2, 5, 9, 8, dtype=torch.float64, requires_grad=True)
    cotangent = torch.randn_like(x)
    leaves = [x, *block.parameters()]
    y = block(x)
    assert len(operator_calls) == 1
    expected = x + block.ls(GatedBlock.branch(block, x))
    assert torch.allclose(y, expected, rtol=1e-12, atol=1e-12)
    for grad, other in zip(
        torch.autograd.grad(y, leaves, cotangent),
        torch.autograd.grad(expected, leaves, cotangent),
        strict=True,
    ):
        assert torch.allclose(grad, other, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize('part', PARTS)
def test_a_replaced_module_is_called(part, block, operator_calls):
    x = torch.randn(2, 5, 9, 8)
    plain = block(x)
    adapter = Adapter(getattr(block, part))
    expected = by_hand(block, x, **{part: adapter})
    setattr(block, part, adapter)
    operator_calls.clear()
    y = block(x)
    assert operator_calls == []
    assert torch.allclose(y, expected, atol=1e-5)
    assert not torch.allclose(y, plain, atol=1e-2)


@pytest.mark.parametrize('part', PARTS)
def test_a_hook_sees_its_module_and_changes_the_result(part, block, operator_calls):
    x = torch.randn(2, 5, 9, 8)
    plain = block(x)
    module = getattr(block, part)
    expected = by_hand(block, x, **{part: lambda x: 2 * module(x)})
    hook = module.register_forward_hook(lambda module, args, output: 2 * output)
    operator_calls.clear()
    assert torch.allclose(block(x), expected, atol=1e-5)
    assert operator_calls == []
    hook.remove()
    assert torch.equal(block(x), plain)
    assert len(operator_calls) == 1


@pytest.mark.parametrize('part', PARTS)
def test_a_pre_hook_changes_what_its_module_gets(part, block, operator_calls):
    x = torch.randn(2, 5, 9, 8)
    plain = block(x)
    module = getattr(block, part)
    expected = by_hand(block, x, **{part: lambda x: module(x.abs())})
    hook = module.register_forward_pre_hook(lambda module, args: (args[0].abs(),))
    operator_calls.clear()
    assert torch.allclose(block(x), expected, atol=1e-5)
    assert operator_calls == []
    hook.remove()
    assert torch.equal(block(x), plain)
    assert len(operator_calls) == 1


@pytest.mark.parametrize('part', PARTS)
@pytest.mark.parametrize('kind', ['full_backward_hook', 'full_backward_pre_hook'])
def test_a_backward_hook_is_called(part, kind, block):
    called = []
    module = getattr(block, part)
    getattr(module, f'register_{kind}')(lambda module, *grads: called.append(module))
    block(torch.randn(2, 5, 9, 8, requires_grad=True)).sum().backward()
    assert called == [module]


def without_bias(block):
    block.fc1 = nn.Linear(8, 42, bias=False)


def without_affine(block):
    block.norm = nn.LayerNorm(8, elementwise_affine=False)


def tanh(block):
    block.act = nn.GELU('tanh')


def dilated(block):
    block.conv = nn.Conv2d(8, 8, 7, padding=9, dilation=3, groups=8)


def reflecting(block):
    block.conv = nn.Conv2d(8, 8, 7, padding=3, padding_mode='reflect', groups=8)


def another_forward(block):
    original = block.fc1.forward
    block.fc1.forward = lambda x: original(x) + 1


def dense(block):
    block.conv = nn.Conv2d(8, 8, 7, padding=3)


def in_pairs(block):
    block.conv = nn.Conv2d(8, 8, 7, padding=3, groups=4)


def of_a_subclass(block):
    class Quantised(torch.Tensor):
        pass

    block.fc1.weight = nn.Parameter(block.fc1.weight.detach().as_subclass(Quantised))
    assert isinstance(block.fc1.weight, nn.Parameter)


def no_parameter(block):
    weight = block.fc2.weight.detach()
    del block.fc2.weight
    block.fc2.weight = weight


def parametrised(block):
    nn.utils.parametrizations.weight_norm(block.fc1)


CHANGES = [
    without_bias,
    without_affine,
    tanh,
    dilated,
    reflecting,
    another_forward,
    dense,
    in_pairs,
    of_a_subclass,
    no_parameter,
    parametrised,
]


@pytest.mark.parametrize('change', CHANGES)
def test_a_changed_module_is_called(change, block, operator_calls):
    change(block)
    x = torch.randn(2, 9, 11, 8)
    assert torch.equal(block(x), by_hand(block, x))
    assert not operator_calls


GLOBAL_HOOKS = {
    'forward': nn.modules.module.register_module_forward_hook,
    'forward pre': nn.modules.module.register_module_forward_pre_hook,
    'backward': nn.modules.module.register_module_full_backward_hook,
    'backward pre': nn.modules.module.register_module_full_backward_pre_hook,
}


@pytest.mark.parametrize('kind', GLOBAL_HOOKS)
def test_a_hook_for_all_modules_sees_each_of_the_block_s(kind, block, operator_calls):
    called = set()
    hook = GLOBAL_HOOKS[kind](lambda module, *_: called.add(module) or None)
    try:
        block(torch.randn(2, 5, 9, 8, requires_grad=True)).sum().backward()
    finally:
        hook.remove()
    assert {getattr(block, part) for part in PARTS} <= called
    assert not operator_calls


def test_the_operator_can_be_switched_off(operator_calls):
    image = torch.randn(1, 3, 32, 32)
    outs = []
    for fused in (True, False):
        torch.manual_seed(0)
        backbone = MambaOut(dict(depths=(1, 1, 1, 1), dims=(8, 8, 8, 8)), fused=fused)
        operator_calls.clear()
        outs.append(backbone(image))
        assert len(operator_calls) == 4 * fused
    for one, other in zip(*outs, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_stand_ins_for_its_parameters_count(block, operator_calls):
    x = torch.randn(2, 5, 9, 8)
    doubled = {name: 2 * parameter.detach() for name, parameter in block.named_parameters()}
    y = torch.func.functional_call(block, doubled, (x,))
    assert not operator_calls
    block.load_state_dict(doubled)
    assert torch.allclose(y, by_hand(block, x), atol=1e-5)


def test_forward_mode_derivatives_are_those_of_the_modules(block):
    block.double()
    x, tangent = torch.randn(2, 2, 5, 9, 8, dtype=torch.float64)
    with torch.no_grad():
        expected = torch.func.jvp(lambda x: by_hand(block, x), (x,), (tangent,))[1]
        with torch.autograd.forward_ad.dual_level():
            y = block(torch.autograd.forward_ad.make_dual(x, tangent))
            found = torch.autograd.forward_ad.unpack_dual(y).tangent
    assert torch.allclose(found, expected)
    assert torch.allclose(torch.func.jvp(block, (x,), (tangent,))[1], expected)


def test_another_epsilon_counts(block, operator_calls):
    block.norm.eps = 0.5
    x = torch.randn(2, 9, 11, 8)
    assert torch.allclose(block(x), by_hand(block, x), rtol=1e-5, atol=1e-5)
    assert len(operator_calls) == 1


def test_no_image_gives_no_map(block):
    x = torch.randn(0, 9, 11, 8, requires_grad=True)
    y = block(x)
    assert y.shape == x.shape
    y.sum().backward()
