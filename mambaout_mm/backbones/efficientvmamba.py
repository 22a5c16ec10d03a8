"""EfficientVMamba: a scan of every second position beside a convolution, then MobileNetV2's blocks.

Paper: arXiv 2403.09977. Parameter names are those of the official code (TerryPei/EfficientVMamba
``classification/models/vmamba_efficient.py`` at 0bc5ee2), so that its files load as they are.

Weights: huggingface.co/TerryPei, for which its README of 2024-04-16 names Apache-2.0.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from timm.layers import DropPath
from torch import Tensor, nn

from mambaout_mm.ops.scan_orders import atrous_merge, atrous_scan
from mambaout_mm.ops.torch_versions import GELU
from mambaout_mm.registry import register_family

from .arch import complete, look_up
from .base import Network, Paper, Stage, drop_path_rates
from .local_mamba import ChannelGate
from .vss import (
    LN_EPS,
    SS2D,
    PatchMerging,
    VSSPyramid,
    init_linear,
    layer_norm,
    patch_embed_v0,
    to_channels_first,
    to_channels_last,
)

WEIGHTS = 'https://huggingface.co/TerryPei/EfficientVMamba-{}/resolve/main/efficient_vmamba_{}.ckpt'
SSM_RATIO = 2.0
D_STATE = 16
SCAN_STAGES = 2  # the first two stages scan, the others are inverted residuals

# From the training logs: the official config files have other numbers for tiny and small.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    'tiny': dict(depths=(2, 2, 4, 2), dims=(48, 96, 192, 384)),
    'small': dict(depths=(2, 2, 4, 2), dims=(64, 128, 256, 512)),
    'base': dict(depths=(2, 2, 9, 2), dims=(96, 192, 384, 768)),
}


class AtrousSS2D(SS2D):
    """VMamba's v0 operator, each direction in one of four sub-maps of every second position."""

    def scan(self, x: Tensor) -> Tensor:
        return atrous_scan(x)

    def merge(self, y: Tensor, height: int, width: int) -> Tensor:
        return atrous_merge(y, height, width)


class EfficientVSSBlock(nn.Module):
    """``x + se(op(norm(x))) + se(conv_branch(norm(x)))``, one gate for both; (N, H, W, dim).

    Args:
        dim (int): Channels.
        drop_path (float): Rate of stochastic depth.
    """

    def __init__(self, dim: int, drop_path: float) -> None:
        super().__init__()
        self.norm = layer_norm(dim)
        self.op = AtrousSS2D(dim, SSM_RATIO, D_STATE, gate=True)
        self.conv_branch = nn.Sequential(
            nn.Conv2d(dim, dim, 3, padding=1, groups=dim),
            nn.BatchNorm2d(dim),
            GELU(),
            nn.Conv2d(dim, dim, 1),
        )
        self.se = ChannelGate(dim)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        convolved = self.conv_branch(normed.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        scanned = self.op(normed)
        gated = self.se(scanned.flatten(1, 2)) + self.se(convolved.flatten(1, 2))  # (N, L, dim)
        return x + self.drop_path(gated.unflatten(1, x.shape[1:3]))


class SqueezeExcitation(nn.Module):
    """Multiply each channel by a number from 0 to 1 that depends on all means; (N, dim, H, W).

    Args:
        dim (int): Channels; an eighth of them inside.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv_reduce = nn.Conv2d(dim, dim // 8, 1)
        self.act = nn.ReLU()
        self.conv_expand = nn.Conv2d(dim // 8, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((2, 3), keepdim=True)  # (N, dim, 1, 1)
        return x * self.conv_expand(self.act(self.conv_reduce(mean))).sigmoid()


class InvertedResidual(nn.Module):
    """MobileNetV2's block (arXiv 1801.04381) with squeeze and excitation; (N, dim, H, W).

    Args:
        dim (int): Channels; 4 dim inside.
        drop_path (float): Rate of stochastic depth.
    """

    def __init__(self, dim: int, drop_path: float) -> None:
        super().__init__()
        hidden = 4 * dim
        self.conv_pw = nn.Sequential(
            nn.Conv2d(dim, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU()
        )
        self.conv_dw = nn.Sequential(
            nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
        )
        self.se = SqueezeExcitation(hidden)
        self.conv_pw2 = nn.Sequential(nn.Conv2d(hidden, dim, 1, bias=False), nn.BatchNorm2d(dim))
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop_path(self.conv_pw2(self.se(self.conv_dw(self.conv_pw(x)))))


def resolve_arch(arch: str | dict[str, Any]) -> dict[str, Any]:
    """All numbers of a variant, given its name or a dict of them.

    Raises:
        ValueError: If the name or a key is unknown, ``depths`` or ``dims`` is missing, or a stage
            has too few channels.
    """
    numbers = complete(look_up('EfficientVMamba', arch, ARCHITECTURES), {})
    if min(numbers['dims']) < 8:
        raise ValueError(
            f'dims must be at least 8, of which a gate keeps an eighth; got {numbers["dims"]}'
        )
    return numbers


@register_family
class EfficientVMamba(VSSPyramid):
    """EfficientVMamba as a four-stage backbone for mmdet and mmseg (arXiv 2403.09977).

    The first convolution has 4x4 patches without padding: an H or W that 4 does not divide is cut
    (70x90 gives 17x22), as in the official code; every other step rounds up.

    It has BatchNorm, which trains on each GPU's own images as in the official code. With
    ``with_cp`` the running statistics are updated twice for each image, as in mmdet's ResNet.

    Args:
        arch (str | dict): A published variant, one of ``tiny``, ``small``, ``base``; or a dict with
            ``depths`` and ``dims`` (four integers each). Defaults to 'tiny'.
        drop_path_rate (float): Stochastic depth, rising linearly from 0 at the first block to this
            at the last. Defaults to 0.0.
        out_indices, output_norm, frozen_stages, with_cp, init_cfg, channels_last: See
            :class:`PyramidBackbone`.

    Raises:
        ValueError: If ``arch`` is unknown or one of its numbers does not fit.

    Example:
        >>> import torch
        >>> from mambaout_mm import EfficientVMamba
        >>> backbone = EfficientVMamba('tiny')
        >>> [tuple(out.shape) for out in backbone(torch.rand(1, 3, 64, 96))]
        [(1, 48, 16, 24), (1, 96, 8, 12), (1, 192, 4, 6), (1, 384, 2, 3)]
    """

    variants = {
        arch: dict(resolve_arch(arch), ssm_ratio=SSM_RATIO, d_state=D_STATE)
        for arch in ARCHITECTURES
    }
    mark = '.conv_branch.'
    weights = {
        f'efficientvmamba://{arch}': WEIGHTS.format(arch.capitalize(), arch)
        for arch in ARCHITECTURES
    }
    networks = tuple(
        Network(
            name,
            'Conv+SSM',
            dict(type='mambaout_mm.EfficientVMamba', arch=arch),
            name,
            presets=presets,
            other_heads=other_heads,
        )
        for name, arch, presets, other_heads in (
            ('EfficientVMamba-T', 'tiny', (), ''),
            # The paper does not say so, but with 384 channels parameters and MACs come out.
            (
                'EfficientVMamba-S',
                'small',
                (),
                'published figures fit an UperNet of 384 channels',
            ),
            ('EfficientVMamba-B', 'base', ('mambas',), ''),
        )
    )
    papers = {
        'EfficientVMamba': Paper(
            'https://arxiv.org/abs/2403.09977',
            'EfficientVMamba: Atrous Selective Scan for Light Weight Visual Mamba',
            'Atrous selective scan',
        )
    }
    recipes = {
        'EfficientVMamba': dict(
            detection="mixed precision, 8 x 2 images (comments in B's config: 4 x 4)"
        )
    }
    global_modules = (SS2D, SqueezeExcitation)

    def __init__(
        self,
        arch: str | dict[str, Any] = 'tiny',
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
        self.patch_embed = patch_embed_v0(dims[0])
        rates = drop_path_rates(drop_path_rate, depths)
        self.layers = nn.ModuleList()
        for i in range(self.num_stages):
            if i < SCAN_STAGES:
                blocks = [EfficientVSSBlock(dims[i], rate) for rate in rates[i]]
                layer = nn.ModuleDict(dict(blocks=nn.Sequential(*blocks)))
            else:
                # PyTorch 2.14 on the CPU returns wrong gradients from a BatchNorm of one image
                # where its input is NCHW in memory and what comes back a channels-last view, as
                # `flatten(2).transpose(1, 2)` in a neck leaves it. The first permutation makes the
                # input channels-last, for which all are right.
                blocks = [InvertedResidual(dims[i], rate) for rate in rates[i]]
                layer = nn.Sequential(to_channels_first(), *blocks, to_channels_last())
            if i + 1 < self.num_stages:
                name = 'downsample' if i < SCAN_STAGES else str(len(layer))
                layer.add_module(name, PatchMerging(dims[i], dims[i + 1]))
            self.layers.append(layer)
        self.apply(init_linear)
        self.freeze_stages()

    def stage(self, i: int) -> Stage:
        if i == 0:
            lead_in = self.patch_embed
        else:
            before = self.layers[i - 1]
            lead_in = before['downsample'] if i <= SCAN_STAGES else before[-1]
        if i < SCAN_STAGES:
            return Stage([lead_in], self.layers[i]['blocks'])
        # With the permutations before and behind the blocks
        return Stage([lead_in], list(self.layers[i])[: self.depths[i] + 2])

    def convert_checkpoint(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """As VMamba's, but for one more prefix.

        It is of an average of weights (EMA) around DistributedDataParallel: ``module.module.`` in
        the file, of which loading may have cut off one. The official code cuts it off as well.
        """
        bare = {re.sub(r'^(module\.)+', '', name): tensor for name, tensor in state_dict.items()}
        return super().convert_checkpoint(bare)

    def measure(self, state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        found = super().measure(state_dict)  # of the stages with a scan
        for i in range(SCAN_STAGES, 4):
            last = re.compile(rf'layers\.{i}\.\d+\.conv_pw2\.0\.weight')  # (dim, 4 * dim, 1, 1)
            dims = [tensor.shape[0] for name, tensor in state_dict.items() if last.fullmatch(name)]
            if dims:
                found['depths'] += (len(dims),)
                found['dims'] += (dims[0],)
        return found
