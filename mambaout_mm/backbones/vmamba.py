"""VMamba: visual state space blocks that scan a map in four directions.

Paper: arXiv 2401.10166. Parameter names are those of the official code (MzeroMiko/VMamba
``classification/models/vmamba.py`` at 2ed52ea), so that its files load as they are. The ``v2``
family is its ``v05_noz``, of the released files ``vssm1_*`` and ``vssm_*``; ``v0`` is the first
release (``vssmtiny_*`` and so on; "VMamba" in most comparisons, MambaOut's tables 2 and 3 among
them, where v2 is "VMambaV9").

Weights: github.com/MzeroMiko/VMamba, releases ``#v2cls``, ``#v2det``, ``#v2seg`` and the same of
v0, MIT.
"""

from collections.abc import Sequence
from typing import Any

from torch import nn

from mambaout_mm.ops.torch_versions import GELU
from mambaout_mm.registry import register_family

from .arch import complete, look_up
from .base import DenseWeights, Network, Paper
from .vss import (
    LN_EPS,
    SS2D,
    PatchMerging,
    VSSBlock,
    VSSPyramid,
    layer_norm,
    patch_embed_v0,
    to_channels_first,
    to_channels_last,
)

_DIMS_96 = (96, 192, 384, 768)
_DIMS_128 = (128, 256, 512, 1024)

ARCHITECTURES: dict[str, dict[str, Any]] = {
    'tiny_s1l8': dict(depths=(2, 2, 8, 2), dims=_DIMS_96, ssm_ratio=1.0),
    'tiny_s2l5': dict(depths=(2, 2, 5, 2), dims=_DIMS_96, ssm_ratio=2.0),
    'small_s2l15': dict(depths=(2, 2, 15, 2), dims=_DIMS_96, ssm_ratio=2.0),
    'small_s1l20': dict(depths=(2, 2, 20, 2), dims=_DIMS_96, ssm_ratio=1.0),
    'base_s2l15': dict(depths=(2, 2, 15, 2), dims=_DIMS_128, ssm_ratio=2.0),
    'base_s1l20': dict(depths=(2, 2, 20, 2), dims=_DIMS_128, ssm_ratio=1.0),
    'tiny_v0': dict(depths=(2, 2, 9, 2), dims=_DIMS_96, version='v0'),
    'small_v0': dict(depths=(2, 2, 27, 2), dims=_DIMS_96, version='v0'),
    'base_v0': dict(depths=(2, 2, 27, 2), dims=_DIMS_128, version='v0'),
}

VERSION_DEFAULTS: dict[str, dict[str, Any]] = {
    'v2': dict(ssm_ratio=1.0, d_state=1, mlp_ratio=4.0),
    'v0': dict(ssm_ratio=2.0, d_state=16, mlp_ratio=0.0),
}


RELEASES = 'https://github.com/MzeroMiko/VMamba/releases/download/%23'
WEIGHTS = RELEASES + '{}_ckpt_epoch_{}.pth'
# From assets/performance.md: variant, file, config, row of published.csv
DETECTORS = (
    ('tiny_s1l8', 'v2det/mask_rcnn_vssm_fpn_coco_tiny_s_epoch_12', 't', 'VMamba-T[s1l8]'),
    ('tiny_s2l5', 'v2det/mask_rcnn_vssm_fpn_coco_tiny_epoch_12', 't_s2l5', 'VMamba-T[s2l5]'),
    ('small_s2l15', 'v2det/mask_rcnn_vssm_fpn_coco_small_epoch_11', 's', 'VMamba-S[s2l15]'),
    ('base_s2l15', 'v2det/mask_rcnn_vssm_fpn_coco_base_epoch_11', 'b', 'VMamba-B[s2l15]'),
    # Of 8 images an iteration, as in MambaOut's table 2
    ('base_s2l15_bs8', 'v2det/mask_rcnn_vssm_fpn_coco_base_epoch_12_bs8', 'b', 'VMambaV9-B'),
    ('tiny_v0', 'v0det/vssmtiny_mask_rcnn_swin_fpn_coco_epoch_12', 't_v0', 'VMamba-T'),
    ('small_v0', 'v0det/vssmsmall_mask_rcnn_swin_fpn_coco_epoch_12', 's_v0', 'VMamba-S'),
    ('base_v0', 'v0det/vssmbase_mask_rcnn_swin_fpn_coco_epoch_12', 'b_v0', 'VMamba-B'),
)
DETECTORS_3X = (
    ('tiny_s1l8', 'v2det/mask_rcnn_vssm_fpn_coco_tiny_ms_3x_s_epoch_31', 't', 'VMamba-T[s1l8]'),
    ('tiny_s2l5', 'v2det/mask_rcnn_vssm_fpn_coco_tiny_ms_3x_epoch_36', 't_s2l5', 'VMamba-T[s2l5]'),
    ('small_s2l15', 'v2det/mask_rcnn_vssm_fpn_coco_small_ms_3x_epoch_32', 's', 'VMamba-S[s2l15]'),
    ('tiny_v0', 'v0det/vssmtiny_mask_rcnn_swin_fpn_coco_ms_3x_epoch_34', 't_v0', 'VMamba-T v0'),
    ('small_v0', 'v0det/vssmsmall_mask_rcnn_swin_fpn_coco_ms_3x_epoch_34', 's_v0', 'VMamba-S v0'),
)
SEGMENTORS = (
    ('tiny_s1l8', 'v2seg/upernet_vssm_{}_tiny_s_iter_160000', 't', 'VMamba-T[s1l8]'),
    ('tiny_s2l5', 'v2seg/upernet_vssm_{}_tiny_iter_160000', 't_s2l5', 'VMamba-T[s2l5]'),
    ('small_s2l15', 'v2seg/upernet_vssm_{}_small_iter_144000', 's', 'VMamba-S[s2l15]'),
    ('base_s2l15', 'v2seg/upernet_vssm_{}_base_iter_160000', 'b', 'VMamba-B[s2l15]'),
    ('tiny_v0', 'v0seg/vssmtiny_upernet_{}_iter_160000', 't_v0', 'VMamba-T'),
    ('small_v0', 'v0seg/vssmsmall_upernet_{}_iter_160000', 's_v0', 'VMamba-S'),
    ('base_v0', 'v0seg/vssmbase_upernet_{}_iter_128000', 'b_v0', 'VMamba-B'),
)

DENSE_RECIPES = dict(
    detection='FP32, 8 x 2 images; some rows are of the best epoch',
    segmentation='FP32, 8 x 2 images, lr 6e-5; some rows are of the best epoch',
)


def patch_embed_v2(dim: int) -> nn.Sequential:
    """Two stride-2 convolutions: (N, 3, H, W) to (N, ceil(H/4), ceil(W/4), dim)."""
    return nn.Sequential(
        nn.Conv2d(3, dim // 2, 3, stride=2, padding=1),
        to_channels_last(),
        layer_norm(dim // 2),
        to_channels_first(),
        GELU(),
        nn.Conv2d(dim // 2, dim, 3, stride=2, padding=1),
        to_channels_last(),
        layer_norm(dim),
    )


def downsample_v2(in_dim: int, out_dim: int) -> nn.Sequential:
    """One stride-2 convolution: (N, H, W, in_dim) to (N, ceil(H/2), ceil(W/2), out_dim)."""
    return nn.Sequential(
        to_channels_first(),
        nn.Conv2d(in_dim, out_dim, 3, stride=2, padding=1),
        to_channels_last(),
        layer_norm(out_dim),
    )


def resolve_arch(arch: str | dict[str, Any]) -> dict[str, Any]:
    """All numbers of a variant, given its name or a dict of those that differ from the defaults.

    Raises:
        ValueError: If the name or a key is unknown, ``depths`` or ``dims`` is missing, or a number
            is out of range.
    """
    arch = look_up('VMamba', arch, ARCHITECTURES)
    version = arch.get('version', 'v2')
    if version not in VERSION_DEFAULTS:
        raise ValueError(f'version must be one of {", ".join(VERSION_DEFAULTS)}, got {version!r}')
    numbers = complete(arch, {'version': version, **VERSION_DEFAULTS[version]})
    if int(numbers['ssm_ratio'] * min(numbers['dims'])) < 1:
        raise ValueError(f'ssm_ratio must leave at least one channel, got {numbers["ssm_ratio"]}')
    return numbers


@register_family
class VMamba(VSSPyramid):
    """VMamba as a four-stage backbone for mmdet and mmseg (arXiv 2401.10166).

    The first convolution of ``v0`` has 4x4 patches without padding: an H or W that 4 does not
    divide is cut (70x90 gives 17x22), as in the official code; every other step rounds up.

    Args:
        arch (str | dict): A published variant, one of ``tiny_s1l8``, ``tiny_s2l5``,
            ``small_s2l15``, ``small_s1l20``, ``base_s2l15``, ``base_s1l20`` (v2, named after
            ssm_ratio and the third stage's depth), ``tiny_v0``, ``small_v0``, ``base_v0``; or a
            dict with ``depths`` and ``dims`` (four integers each) and optionally ``version`` ('v2'
            or 'v0'; Defaults to 'v2'), ``ssm_ratio`` (1, v0: 2), ``d_state`` (1, v0: 16) and
            ``mlp_ratio`` (4, v0: 0, no MLP). Defaults to 'tiny_s1l8'.
        drop_path_rate (float): Stochastic depth, rising linearly from 0 at the first block to this
            at the last. Defaults to 0.0.
        out_indices, output_norm, frozen_stages, with_cp, init_cfg, channels_last: See
            :class:`PyramidBackbone`.

    Raises:
        ValueError: If ``arch`` is unknown or one of its numbers does not fit.

    Example:
        >>> import torch
        >>> from mambaout_mm import VMamba
        >>> backbone = VMamba('tiny_s1l8')
        >>> [tuple(out.shape) for out in backbone(torch.rand(1, 3, 64, 96))]
        [(1, 96, 16, 24), (1, 192, 8, 12), (1, 384, 4, 6), (1, 768, 2, 3)]
    """

    variants = {name: resolve_arch(name) for name in ARCHITECTURES}
    weights = {
        f'vmamba://{arch}': WEIGHTS.format(file, epoch)
        for arch, file, epoch in (
            ('tiny_s1l8', 'v2cls/vssm1_tiny_0230s', 264),
            ('tiny_s2l5', 'v2cls/vssm_tiny_0230', 262),
            ('small_s2l15', 'v2cls/vssm_small_0229', 222),
            ('small_s1l20', 'v2cls/vssm1_small_0229s', 240),
            ('base_s2l15', 'v2cls/vssm_base_0229', 237),
            ('base_s1l20', 'v2cls/vssm1_base_0229s', 225),
            ('tiny_v0', 'v0cls/vssmtiny_dp01', 292),
            ('small_v0', 'v0cls/vssmsmall_dp03', 238),
            ('base_v0', 'v0cls/vssmbase_dp06', 241),
        )
    }
    dense_weights = {
        f'vmamba-det://{arch}{suffix}': DenseWeights(
            f'{RELEASES}{file}.pth', f'detection/maskrcnn_vmamba_{config}{suffix}', row, schedule
        )
        for detectors, suffix, schedule in ((DETECTORS, '', '1x'), (DETECTORS_3X, '_3x', '3x MS'))
        for arch, file, config, row in detectors
    } | {
        f'vmamba-seg://{arch}': DenseWeights(
            f'{RELEASES}{file.format("4xb4-160k_ade20k-512x512")}.pth',
            f'segmentation/upernet_vmamba_{config}',
            row,
            '160k',
        )
        for arch, file, config, row in SEGMENTORS
    }
    # MambaOut's tables call the first release (here "v0") VMamba, and today's VMambaV9.
    networks = tuple(
        Network(
            name,
            'Conv+SSM',
            dict(type='mambaout_mm.VMamba', arch=arch),
            published,
            presets=presets,
        )
        for name, arch, published, presets in (
            ('VMamba-T', 'tiny_s1l8', 'VMamba-T[s1l8]', ('tiny', 'mambas')),
            ('VMamba-T[s2l5]', 'tiny_s2l5', 'VMamba-T[s2l5]', ()),
            ('VMamba-S', 'small_s2l15', 'VMamba-S[s2l15]', ('small',)),
            ('VMamba-B', 'base_s2l15', 'VMamba-B[s2l15]', ('base',)),
            ('VMamba-T v0', 'tiny_v0', 'VMamba-T', ()),
            ('VMamba-S v0', 'small_v0', 'VMamba-S', ()),
            ('VMamba-B v0', 'base_v0', 'VMamba-B', ()),
        )
    )
    papers = {
        'VMamba': Paper(
            'https://arxiv.org/abs/2401.10166',
            'VMamba: Visual State Space Model',
            'Visual state space block',
            licence='MIT',
        )
    }
    recipes = {
        'VMamba': dict(**DENSE_RECIPES, classification='averaged weights'),
        # VMamba's assets/performance.md: all are averages of weights but Vanilla-VMamba-T, which
        # MambaOut's table 1 prints as VMamba-T.
        'VMamba-T': dict(**DENSE_RECIPES),
        'VMamba-T v0': dict(**DENSE_RECIPES),
    }

    def __init__(
        self,
        arch: str | dict[str, Any] = 'tiny_s1l8',
        drop_path_rate: float = 0.0,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        output_norm: bool = True,
        frozen_stages: int = -1,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
        channels_last: bool = False,
    ) -> None:
        numbers = resolve_arch(arch)
        depths, dims = numbers['depths'], numbers['dims']
        super().__init__(
            depths=depths,
            dims=dims,
            out_indices=out_indices,
            output_norm=output_norm,
            norm_eps=LN_EPS,
            frozen_stages=frozen_stages,
            with_cp=with_cp,
            init_cfg=init_cfg,
            channels_last=channels_last,
        )
        v0 = numbers['version'] == 'v0'
        self.patch_embed = (patch_embed_v0 if v0 else patch_embed_v2)(dims[0])
        ssm_ratio, d_state = numbers['ssm_ratio'], numbers['d_state']
        self.build_layers(
            drop_path_rate,
            block=lambda dim, rate: VSSBlock(
                dim, SS2D(dim, ssm_ratio, d_state, gate=v0), numbers['mlp_ratio'], rate
            ),
            downsample=PatchMerging if v0 else downsample_v2,
        )
