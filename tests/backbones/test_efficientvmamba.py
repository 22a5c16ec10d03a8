"""EfficientVMamba against the official implementation's vectors."""

import pytest
import torch
from support_golden import Golden, official_keys

from mambaout_mm import EfficientVMamba
from mambaout_mm.backbones.efficientvmamba import ARCHITECTURES

SMALL = dict(depths=(1, 1, 2, 1), dims=(8, 16, 24, 32))


# golden/README: at these limits a 2 % change of any one parameter tensor fails.
@pytest.mark.parametrize(
    ('dtype', 'limit', 'grad_limit'), [(torch.float32, 3e-5, 1e-4), (torch.float64, 5e-6, 5e-6)]
)
@pytest.mark.parametrize('file', ['efficientvmamba_a_60x84', 'efficientvmamba_b_64x64'])
def test_reproduces_the_official_outputs_and_gradients(file, dtype, limit, grad_limit):
    golden = Golden(file)
    arch = {key: golden.config['kwargs'][key] for key in ('depths', 'dims')}
    backbone = EfficientVMamba(arch).eval()
    backbone.load_state_dict(backbone.convert_checkpoint(golden.state), strict=True)
    backbone.to(dtype)
    image = golden.arrays['input'].to(dtype).requires_grad_()
    outs = {f'stage{i}': out for i, out in enumerate(backbone(image))}
    golden.loss(outs, limit).backward()
    grads = {name: param.grad for name, param in backbone.named_parameters()}
    official = {f'out{name}': grad for name, grad in grads.items() if name.startswith('norm')}
    golden.check_gradients(image, grads | official, grad_limit)


@pytest.mark.parametrize('variant', ARCHITECTURES)
def test_names_and_shapes_are_the_official_ones(variant):
    keys, official = official_keys(f'efficientvmamba_{variant}')
    with torch.device('meta'):
        backbone = EfficientVMamba(variant, output_norm=False)
    assert {k: tuple(v.shape) for k, v in backbone.state_dict().items()} == official
    assert sum(p.numel() for p in backbone.parameters()) == keys['num_params_without_head']


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_one_image_has_the_gradient_of_two_of_it(dtype, training):
    """PyTorch's BatchNorm fails for one image on the CPU, in some orders of memory.

    A transformer's tokens, made of the map, give the incoming gradient such an order.
    """

    def tokens_of(images):
        return [out.flatten(2).transpose(1, 2) for out in backbone(images)]

    backbone = EfficientVMamba(SMALL, output_norm=False).to(dtype).train(training)
    image = torch.randn(1, 3, 60, 84, dtype=dtype)
    cotangents = [torch.randn(tokens.shape, dtype=dtype) for tokens in tokens_of(image)]
    grads = []
    for images in (image, image.repeat(2, 1, 1, 1)):
        images.requires_grad_()
        tokens = tokens_of(images)
        loss = sum((x * c).sum() for x, c in zip(tokens, cotangents, strict=True))
        grads += torch.autograd.grad(loss, images)
    error = (grads[0][0] - grads[1][0]).abs().max() / grads[0].abs().max()
    assert error < 1e-4


def test_frozen_stages_keep_their_running_statistics():
    backbone = EfficientVMamba(SMALL, frozen_stages=3).train()
    before = {name: buffer.clone() for name, buffer in backbone.named_buffers()}
    backbone(torch.randn(2, 3, 64, 64))
    for name, buffer in backbone.named_buffers():
        frozen = not name.startswith('layers.3.')
        assert torch.equal(buffer, before[name]) == frozen, name


@pytest.mark.parametrize(
    ('name', 'position'),
    [
        ('patch_embed.2.weight', (0, None)),
        ('layers.1.blocks.0.conv_branch.1.weight', (1, 0)),
        ('layers.1.downsample.reduction.weight', (2, None)),
        ('layers.2.1.conv_pw.0.weight', (2, 0)),
        ('layers.2.2.se.conv_reduce.bias', (2, 1)),
        ('layers.2.4.reduction.weight', (3, None)),
        ('norm2.weight', None),
    ],
)
def test_where_a_parameter_belongs(name, position):
    """The last stages are one Sequential: a permutation, the blocks, another, the downsampling."""
    backbone = EfficientVMamba(SMALL)
    assert name in dict(backbone.named_parameters())
    assert backbone.stage_and_block(name) == position


@pytest.mark.parametrize(
    ('arch', 'words'),
    [
        (dict(dims=(4, 8, 8, 8)), r'dims must be at least 8, .* got \(4, 8, 8, 8\)'),
        (dict(mlp_ratio=4), "unknown key 'mlp_ratio' in arch; known: depths, dims"),
    ],
)
def test_bad_numbers_are_named(arch, words):
    with pytest.raises(ValueError, match=words):
        EfficientVMamba(dict(SMALL, **arch))
