"""ViT against timm's DeiT, and the arguments that other families do not have."""

import pytest
import timm
import torch

from mambaout_mm import ViT
from mambaout_mm.checkpoints import UnknownLayoutError


@pytest.fixture(scope='module')
def deit():
    torch.manual_seed(0)
    return timm.create_model('deit_tiny_patch16_224').eval()


@pytest.fixture(scope='module')
def ours(deit):
    vit = ViT('tiny', pyramid=None, out_indices=(1, 3)).eval()
    weights, fresh = vit.match_checkpoint(deit.state_dict())
    vit.load_state_dict(weights, strict=False)
    assert fresh == ['norm1']
    return vit


def test_it_computes_what_timms_deit_computes(ours, deit):
    image = torch.rand(2, 3, 224, 224)
    with torch.no_grad():
        expected = deit.forward_features(image)[:, 1:]  # without the class token
        out = ours(image)[1].flatten(2).transpose(1, 2)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)


def test_maps_of_earlier_blocks_are_the_streams_there(deit):
    vit = ViT('tiny', pyramid=None, output_norm=False).eval()
    weights, _ = vit.match_checkpoint(
        {n: x for n, x in deit.state_dict().items() if not n.startswith('norm.')}
    )
    vit.load_state_dict(weights, strict=False)
    image = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        expected = deit.forward_intermediates(image, indices=[2, 5, 8, 11], intermediates_only=True)
        for out, other in zip(vit(image), expected, strict=True):
            torch.testing.assert_close(out, other, rtol=1e-4, atol=1e-4)


def test_materialised_attention_computes_the_same(ours):
    other = ViT('tiny', pyramid=None, out_indices=(1, 3), fused_attention=False).eval()
    other.load_state_dict(ours.state_dict())
    image = torch.rand(1, 3, 75, 101)
    with torch.no_grad():
        for a, b in zip(ours(image), other(image), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_what_is_no_vit_is_named(deit):
    weights = {n: x for n, x in deit.state_dict().items() if n != 'cls_token'}
    with pytest.raises(UnknownLayoutError, match='no ViT backbone in it: cls_token'):
        ViT('tiny').match_checkpoint(weights)


def test_heads_must_fit():
    with pytest.raises(ValueError, match='head_dim 64 does not divide dim 96'):
        ViT(dict(depths=(1, 1, 1, 1), dim=96))
