"""LocalVMamba: VMamba whose scans also run inside of local windows.

Paper: arXiv 2403.09338. Parameter names are those of the official code (hunto/LocalMamba
``classification/lib/models/local_vmamba.py`` at 75e5d1f), so that its files load as they are.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from mambaout_mm.ops.scan_orders import local_scan, local_unscan
from mambaout_mm.registry import register_family

from .arch import complete, is_published, look_up
from .base import Network, Paper
from .local_mamba import (
    LOCALVMAMBA_SMALL,
    LOCALVMAMBA_TINY,
    WEIGHTS,
    ChannelGate,
    complete_directions,
)
from .vss import LN_EPS, SS2D, PatchMerging, VSSBlock, VSSPyramid, patch_embed_v0

_DIMS = (96, 192, 384, 768)

ARCHITECTURES: dict[str, dict[str, Any]] = {
    'tiny': dict(depths=(2, 2, 9, 2), dims=_DIMS, directions=LOCALVMAMBA_TINY),
    'small': dict(depths=(2, 2, 27, 2), dims=_DIMS, directions=LOCALVMAMBA_SMALL),
}

ARCHITECTURE_DEFAULTS: dict[str, Any] = dict(directions=None, ssm_ratio=2.0, d_state=16)


class LocalSS2D(SS2D):
    """VMamba's v0 operator in directions of its own, each weighed by one gate before the sum.

    Args:
        dim (int): Channels.
        ssm_ratio (float): D = int(ssm_ratio * dim) channels in each direction.
        d_state (int): Size of a channel's state.
        directions (Sequence[str]): Four of ``mambaout_mm.ops.scan_orders.DIRECTIONS``.
        published (bool): See :func:`mambaout_mm.ops.scan_orders.local_unscan`.
    """

    def __init__(
        self,
        dim: int,
        ssm_ratio: float,
        d_state: int,
        directions: Sequence[str],
        published: bool,
    ) -> None:
        super().__init__(dim, ssm_ratio, d_state, gate=True)
        self.directions = directions
        self.published = published
        self.multi_scan = nn.ModuleDict(dict(attn=ChannelGate(int(ssm_ratio * dim))))

    def scan(self, x: Tensor) -> Tensor:
        return local_scan(x, self.directions)

    def merge(self, y: Tensor, height: int, width: int) -> Tensor:
        # The scan's float32 stays under autocast; the norm in the gate wants its weights' dtype
        y = y.to(self.out_norm.weight.dtype)
        maps = local_unscan(y, self.directions, height, width, self.published)  # (N, 4, H, W, D)
        gated = self.multi_scan['attn'](maps.flatten(2, 3))  # (N, 4, H * W, D)
        return gated.sum(1).unflatten(1, (height, width))


def resolve_arch(arch: str | dict[str, Any]) -> dict[str, Any]:
    """All numbers of a variant, given its name or a dict of those that differ from the defaults.

    Raises:
        ValueError: If the name or a key is unknown, ``depths`` or ``dims`` is missing, a number is
            out of range, or ``directions`` are not four known ones for each block.
    """
    numbers = complete(look_up('LocalVMamba', arch, ARCHITECTURES), ARCHITECTURE_DEFAULTS)
    if int(numbers['ssm_ratio'] * min(numbers['dims'])) < 8:
        raise ValueError(
            'ssm_ratio must leave at least 8 channels, of which the gate keeps an eighth; got '
            f'{numbers["ssm_ratio"]}'
        )
    directions = complete_directions(numbers['directions'], sum(numbers['depths']))
    return {**numbers, 'directions': directions}


@register_family
class LocalVMamba(VSSPyramid):
    """LocalVMamba as a four-stage backbone for mmdet and mmseg (arXiv 2403.09338).

    The first convolution has 4x4 patches without padding: an H or W that 4 does not divide is cut
    (70x90 gives 17x22), as in the official code; every other step rounds up.

    Args:
        arch (str | dict): A published variant, ``tiny`` or ``small``; or a dict with ``depths`` and
            ``dims`` (four integers each) and optionally ``directions`` (for each block four of
            'h', 'h_flip', 'v', 'v_flip', 'w2', 'w2_flip', 'w7', 'w7_flip', as in
            :func:`mambaout_mm.ops.scan_orders.local_scan`; Defaults to h, h_flip, w2 and w2_flip in
            each block), ``ssm_ratio`` (2) and ``d_state`` (16). Defaults to 'tiny'.
        scan (str): How columns ('v', 'v_flip') are put back after the scan. 'corrected' inverts the
            reading of them. 'published' is the authors' code: the same on square maps, on others it
            permutes nearly all positions. The parameters are the same. On square maps, as those
            that ImageNet weights were trained on, both are one network. Weights that the authors
            trained on COCO need 'published'; new training, also from ImageNet weights, should use
            'corrected'. Defaults to 'corrected'.
        drop_path_rate (float): Stochastic depth, rising linearly from 0 at the first block to this
            at the last. Defaults to 0.0.
        out_indices, output_norm, frozen_stages, with_cp, init_cfg, channels_last: See
            :class:`PyramidBackbone`.

    Raises:
        ValueError: If ``arch`` or ``scan`` is unknown or one of its numbers does not fit.

    Example:
        >>> import torch
        >>> from mambaout_mm import LocalVMamba
        >>> backbone = LocalVMamba('tiny')
        >>> [tuple(out.shape) for out in backbone(torch.rand(1, 3, 64, 96))]
        [(1, 96, 16, 24), (1, 192, 8, 12), (1, 384, 4, 6), (1, 768, 2, 3)]
    """

    variants = {arch: resolve_arch(arch) for arch in ARCHITECTURES}
    mark = '.multi_scan.attn.'
    weights = {'localvmamba://small': WEIGHTS.format('local_vssm_small')}
    unpublished_weights = {
        'localvmamba://tiny': 'its authors never released them ("retraining" in their README)'
    }
    networks = tuple(
        Network(
            name,
            'Conv+SSM',
            dict(type='mambaout_mm.LocalVMamba', arch=arch),
            name,
            presets=presets,
        )
        for name, arch, presets in (
            ('LocalVMamba-T', 'tiny', ('mambas',)),
            ('LocalVMamba-S', 'small', ()),
        )
    )
    papers = {
        'LocalVMamba': Paper(
            'https://arxiv.org/abs/2403.09338',
            'LocalMamba: Visual State Space Model with Windowed Selective Scan',
            'Windowed selective scan',
        )
    }
    recipes = {
        'LocalVMamba': dict(
            detection='mixed precision, 8 x 2 images',
            segmentation='8 x 2 images, lr 6e-5; mixed precision for Small only',
        )
    }

    def __init__(
        self,
        arch: str | dict[str, Any] = 'tiny',
        scan: str = 'corrected',
        drop_path_rate: float = 0.0,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        output_norm: bool = True,
        frozen_stages: int = -1,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
        channels_last: bool = False,
    ) -> None:
        numbers = resolve_arch(arch)
        published = is_published(scan)
        super().__init__(
            depths=numbers['depths'],
            dims=numbers['dims'],
            out_indices=out_indices,
            output_norm=output_norm,
            norm_eps=LN_EPS,
            frozen_stages=frozen_stages,
            with_cp=with_cp,
            init_cfg=init_cfg,
            channels_last=channels_last,
        )
        self.patch_embed = patch_embed_v0(self.dims[0])
        ssm_ratio, d_state = numbers['ssm_ratio'], numbers['d_state']
        directions = iter(numbers['directions'])

        def block(dim: int, rate: float) -> VSSBlock:
            op = LocalSS2D(dim, ssm_ratio, d_state, next(directions), published)
            return VSSBlock(dim, op, mlp_ratio=0.0, drop_path=rate)

        self.build_layers(drop_path_rate, block, downsample=PatchMerging)
