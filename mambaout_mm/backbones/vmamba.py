"""VMamba: visual state space blocks that scan a map in four directions.

Paper: arXiv 2401.10166. Parameter names are those of the official code (MzeroMiko/VMamba
``classification/models/vmamba.py`` at 2ed52ea), so that its files load as they are. The ``v2``
family is its ``v05_noz``, of the released files ``vssm1_*`` and ``vssm_*``; ``v0`` is the first
release (``vssmtiny_*`` and so on; "VMamba" in most comparisons, MambaOut's tables 2 and 3 among
them, where v2 is "VMambaV9").
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import DropPath, trunc_normal_
from torch import Tensor, nn

from mambaout_mm.checkpoints import vmamba as checkpoint_layout
from mambaout_mm.ops.scan_orders import cross_merge, cross_scan
from mambaout_mm.ops.selective_scan import selective_scan
from mambaout_mm.registry import register_backbone

from .arch import complete, look_up
from .pyramid import PyramidBackbone, drop_path_rates
from .ssm import decays, init_decays, init_steps

LN_EPS = 1e-5
DIRECTIONS = 4

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


def layer_norm(dim: int) -> nn.LayerNorm:
    """LayerNorm over the last dimension with the official epsilon."""
    return nn.LayerNorm(dim, eps=LN_EPS)


class Permute(nn.Module):
    """Reorder dimensions, where the official ``nn.Sequential`` has a numbered place for it."""

    def __init__(self, *order: int) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(*self.order)


def to_channels_last() -> Permute:
    return Permute(0, 2, 3, 1)


def to_channels_first() -> Permute:
    return Permute(0, 3, 1, 2)


def patch_embed_v2(dim: int) -> nn.Sequential:
    """Two stride-2 convolutions: (N, 3, H, W) to (N, ceil(H/4), ceil(W/4), dim)."""
    return nn.Sequential(
        nn.Conv2d(3, dim // 2, 3, stride=2, padding=1),
        to_channels_last(),
        layer_norm(dim // 2),
        to_channels_first(),
        nn.GELU(),
        nn.Conv2d(dim // 2, dim, 3, stride=2, padding=1),
        to_channels_last(),
        layer_norm(dim),
    )


def patch_embed_v0(dim: int) -> nn.Sequential:
    """Patches of 4x4, rest cut off: (N, 3, H, W) to (N, floor(H/4), floor(W/4), dim)."""
    return nn.Sequential(nn.Conv2d(3, dim, 4, stride=4), to_channels_last(), layer_norm(dim))


def downsample_v2(in_dim: int, out_dim: int) -> nn.Sequential:
    """One stride-2 convolution: (N, H, W, in_dim) to (N, ceil(H/2), ceil(W/2), out_dim)."""
    return nn.Sequential(
        to_channels_first(),
        nn.Conv2d(in_dim, out_dim, 3, stride=2, padding=1),
        to_channels_last(),
        layer_norm(out_dim),
    )


class PatchMerging(nn.Module):
    """Each 2x2 pixels to one: (N, H, W, in_dim) to (N, ceil(H/2), ceil(W/2), out_dim)."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * in_dim, out_dim, bias=False)
        self.norm = layer_norm(4 * in_dim)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        # The order of Swin: down before right
        quarters = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduction(self.norm(torch.cat(quarters, dim=-1)))


class SS2D(nn.Module):
    """2-D selective scan: (N, H, W, dim) to the same shape.

    Project, convolve 3x3, scan in four directions with parameters computed from the input, sum,
    normalise, project back. ``v0`` has a gate beside it. A subclass has directions of its own by
    :meth:`scan` and :meth:`merge`.

    Args:
        dim (int): Channels.
        ssm_ratio (float): D = int(ssm_ratio * dim) channels in each direction.
        d_state (int): Size N of a channel's state.
        gate (bool): Multiply by SiLU(z), z a second half of ``in_proj``; the convolution then has
            a bias (v0).
    """

    def __init__(self, dim: int, ssm_ratio: float, d_state: int, gate: bool) -> None:
        super().__init__()
        inner = int(ssm_ratio * dim)
        rank = math.ceil(dim / 16)
        self.parameter_sizes = (rank, d_state, d_state)  # dt, B, C
        self.gate = gate
        self.in_proj = nn.Linear(dim, 2 * inner if gate else inner, bias=False)
        self.conv2d = nn.Conv2d(inner, inner, 3, padding=1, groups=inner, bias=gate)
        self.x_proj_weight = nn.Parameter(torch.empty(DIRECTIONS, sum(self.parameter_sizes), inner))
        self.dt_projs_weight = nn.Parameter(torch.empty(DIRECTIONS, inner, rank))
        self.dt_projs_bias = nn.Parameter(torch.empty(DIRECTIONS, inner))
        self.A_logs = nn.Parameter(torch.empty(DIRECTIONS * inner, d_state))
        self.Ds = nn.Parameter(torch.empty(DIRECTIONS * inner))
        self.out_norm = layer_norm(inner)
        self.out_proj = nn.Linear(inner, dim, bias=False)
        self.reset_scan_parameters()

    def reset_scan_parameters(self) -> None:
        """Mamba's initialisation."""
        inner = self.dt_projs_weight.shape[1]
        with torch.no_grad():
            self.x_proj_weight.uniform_(-(inner**-0.5), inner**-0.5)
            self.Ds.fill_(1)
        init_steps(self.dt_projs_weight, self.dt_projs_bias)
        init_decays(self.A_logs)

    def scan(self, x: Tensor) -> Tensor:
        """Four sequences of a map (N, H, W, D), of one length: (N, 4, L, D)."""
        return cross_scan(x)

    def merge(self, y: Tensor, height: int, width: int) -> Tensor:
        """The map (N, height, width, D) that four scanned sequences (N, 4, L, D) give."""
        return cross_merge(y, height, width)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        x = self.in_proj(x)  # (N, H, W, D)
        if self.gate:
            x, z = x.chunk(2, dim=-1)
        x = F.silu(self.conv2d(x.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)
        x = self.scan(x)  # (N, 4, L, D)
        parameters = x @ self.x_proj_weight.transpose(1, 2)  # (N, 4, L, R + 2 d_state)
        dt, B, C = parameters.split(self.parameter_sizes, dim=-1)
        dt = dt @ self.dt_projs_weight.transpose(1, 2)  # (N, 4, L, D)
        y = selective_scan(
            x.transpose(2, 3),
            dt.transpose(2, 3),
            decays(self.A_logs),
            B.transpose(2, 3),
            C.transpose(2, 3),
            self.Ds,
            self.dt_projs_bias.flatten(),
        )  # (N, 4, D, L)
        # Summed and normalised in float32, as the official code does against overflow in float16
        y = self.merge(y.transpose(2, 3), height, width)  # (N, H, W, D)
        y = self.out_norm(y.to(self.out_norm.weight.dtype)).to(x.dtype)
        return self.out_proj(y * F.silu(z) if self.gate else y)


class MLP(nn.Module):
    """Linear, GELU, Linear over the last dimension."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class VSSBlock(nn.Module):
    """``x + op(norm(x))``, then ``x + mlp(norm2(x))`` where there is an MLP; (N, H, W, dim)."""

    def __init__(self, dim: int, op: nn.Module, mlp_ratio: float, drop_path: float) -> None:
        super().__init__()
        self.norm = layer_norm(dim)
        self.op = op
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.mlp = None
        if mlp_ratio > 0:
            self.norm2 = layer_norm(dim)
            self.mlp = MLP(dim, int(mlp_ratio * dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.op(self.norm(x)))
        if self.mlp is not None:
            x = x + self.drop_path(self.mlp(self.norm2(x)))
        return x


class VSSPyramid(PyramidBackbone):
    """Stages of blocks as VMamba names them: ``layers.{i}.blocks.{j}``, ``layers.{i}.downsample``.

    A family builds ``patch_embed`` and has :meth:`build_layers` make the rest.
    """

    def build_layers(
        self,
        drop_path_rate: float,
        block: Callable[[int, float], nn.Module],
        downsample: Callable[[int, int], nn.Module],
    ) -> None:
        """Make ``layers``, initialise linear layers and freeze stages.

        Args:
            drop_path_rate (float): Of the last block, rising linearly from 0 at the first.
            block (Callable[[int, float], nn.Module]): The next block in order, given its channels
                and its rate of stochastic depth.
            downsample (Callable[[int, int], nn.Module]): What is between two stages, given the
                channels of both.
        """
        rates = drop_path_rates(drop_path_rate, self.depths)
        self.layers = nn.ModuleList()
        for i in range(self.num_stages):
            blocks = [block(self.dims[i], rate) for rate in rates[i]]
            self.layers.append(nn.ModuleDict(dict(blocks=nn.Sequential(*blocks))))
            if i + 1 < self.num_stages:
                self.layers[i]['downsample'] = downsample(self.dims[i], self.dims[i + 1])
        self.apply(init_linear)
        self.freeze_stages()

    def forward_stage(self, i: int, x: Tensor) -> Tensor:
        x = self.patch_embed(x) if i == 0 else self.layers[i - 1]['downsample'](x)
        for block in self.layers[i]['blocks']:
            x = self.run_block(block, x)
        return x

    def modules_of_stage(self, i: int) -> list[nn.Module]:
        if i == -1:
            return [self.patch_embed]
        blocks = [self.layers[i]['blocks']]
        return blocks if i == 0 else [self.layers[i - 1]['downsample'], *blocks]

    def stage_and_block(self, param_name: str) -> tuple[int, int | None] | None:
        part, *rest = param_name.split('.')
        if part == 'patch_embed':
            return 0, None
        if part != 'layers':
            return None
        stage = int(rest[0])
        return (stage + 1, None) if rest[1] == 'downsample' else (stage, int(rest[2]))


@register_backbone
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

    def convert_checkpoint(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        return checkpoint_layout.to_official(state_dict, 'VMamba', self.num_stages)

    def describe_checkpoint(self, state_dict: dict[str, Tensor]) -> str:
        variants = {name: resolve_arch(name) for name in ARCHITECTURES}
        return checkpoint_layout.describe('VMamba', checkpoint_layout.measure(state_dict), variants)


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


def init_linear(module: nn.Module) -> None:
    """Convolutions keep PyTorch's initialisation, as in the official code."""
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
