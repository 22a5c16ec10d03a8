"""Code shared by VMamba and the families forked from it: SS2D, blocks, stages, key map.

Sources: MzeroMiko/VMamba ``classification/models/vmamba.py`` at 2ed52ea; LocalVMamba
(hunto/LocalMamba at 75e5d1f) and EfficientVMamba (TerryPei/EfficientVMamba at 0bc5ee2) kept its
names.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import DropPath, trunc_normal_
from torch import Tensor, nn

from mambaout_mm.checkpoints import UnknownLayoutError
from mambaout_mm.ops.scan_orders import cross_merge, cross_scan
from mambaout_mm.ops.torch_versions import GELU

from .base import PyramidBackbone, Stage, drop_path_rates
from .depthwise import DepthwiseConv2d
from .mamba import init_decays, init_steps, selective_ssm

LN_EPS = 1e-5
DIRECTIONS = 4

# Names in published files, of VMamba and of the families whose code began as its. The official
# layout (MzeroMiko/VMamba ``classification/models/vmamba.py`` at 2ed52ea) is the one here. Earlier
# files have the older names below, which the official code renames while it loads; those of its
# detectors and segmentors call the output norms ``outnorm{i}``.
STEM = 'patch_embed.0.weight'
RENAMES = (
    (re.compile(r'^patch_embed\.proj\.'), 'patch_embed.0.'),
    (re.compile(r'^patch_embed\.norm\.'), 'patch_embed.2.'),
    (re.compile(r'^(layers\.\d+\.blocks\.\d+\.)ln_1\.'), r'\1norm.'),
    (re.compile(r'^(layers\.\d+\.blocks\.\d+\.)self_attention\.'), r'\1op.'),
    (re.compile(r'^outnorm(\d)\.'), r'norm\1.'),
)
CLASSIFIER = ('classifier.', 'norm.', 'head.')  # the latter two in earlier files
LINEAR = re.compile(r'\.(in_proj|out_proj|fc1|fc2)\.weight$')


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


def patch_embed_v0(dim: int) -> nn.Sequential:
    """Patches of 4x4, rest cut off: (N, 3, H, W) to (N, floor(H/4), floor(W/4), dim)."""
    return nn.Sequential(nn.Conv2d(3, dim, 4, stride=4), to_channels_last(), layer_norm(dim))


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
        self.gate = gate
        self.in_proj = nn.Linear(dim, 2 * inner if gate else inner, bias=False)
        self.conv2d = DepthwiseConv2d(inner, 3, bias=gate)
        self.x_proj_weight = nn.Parameter(torch.empty(DIRECTIONS, rank + 2 * d_state, inner))
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
        y = selective_ssm(
            x,
            self.x_proj_weight,
            self.dt_projs_weight,
            self.dt_projs_bias.flatten(),
            self.A_logs,
            self.Ds,
        )  # (N, 4, L, D)
        # Summed and normalised in float32, as the official code does against overflow in float16
        y = self.merge(y, height, width)  # (N, H, W, D)
        y = self.out_norm(y.to(self.out_norm.weight.dtype)).to(x.dtype)
        return self.out_proj(y * F.silu(z) if self.gate else y)


class MLP(nn.Module):
    """Linear, GELU, Linear over the last dimension."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = GELU()
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

    A family builds ``patch_embed`` and lets :meth:`build_layers` make the rest. Its ``variants``
    have ``depths``, ``dims``, ``ssm_ratio`` and ``d_state``, for :meth:`describe_checkpoint`.
    """

    variants: Mapping[str, Mapping[str, Any]] = {}
    # Some names in the family's files contain this; no name in a file of VMamba does.
    mark: str | None = None
    global_modules = (SS2D,)

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

    def stage(self, i: int) -> Stage:
        lead_in = self.patch_embed if i == 0 else self.layers[i - 1]['downsample']
        return Stage([lead_in], self.layers[i]['blocks'])

    def convert_checkpoint(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Today's official names, output norms as ``norm{i}``, without the classifier.

        Linear layers may be stored as 1x1 convolutions. What leads to a stage that this model does
        without is left out.

        Raises:
            UnknownLayoutError: If it is not of this family.
        """
        # What follows the last stage: EfficientVMamba has it as the last of a Sequential.
        unused = re.compile(
            rf'^layers\.{self.num_stages - 1}\.(downsample|\d+\.(norm|reduction))\.'
        )
        official = {}
        for name, tensor in state_dict.items():
            if name.startswith(CLASSIFIER):
                continue
            for pattern, replacement in RENAMES:
                name = pattern.sub(replacement, name)
            if unused.match(name):
                continue
            if LINEAR.search(name) and tensor.dim() == 4:
                tensor = tensor.flatten(1)  # (out, in, 1, 1) to (out, in)
            official[name] = tensor
        self.check_family(official, len(state_dict), list(state_dict)[:4])
        return official

    def check_family(self, names: Mapping[str, Tensor], keys: int, first: list[str]) -> None:
        """Check that names are of this family, and not of another whose code began as VMamba's.

        Args:
            names (Mapping[str, Tensor]): Under their official names.
            keys (int): How many the file has.
            first (list[str]): The first of them.

        Raises:
            UnknownLayoutError: If they are not.
        """
        own = type(self).__name__
        if STEM not in names or not any('.op.A_logs' in name for name in names):
            raise UnknownLayoutError(
                f'no {own} backbone in it: {STEM} and layers.*.blocks.*.op.A_logs are not among '
                f'its {keys} keys ({", ".join(first)}, ...)'
            )
        marks = {family.mark: family.__name__ for family in VSSPyramid.__subclasses__()}
        found = next((mark for mark in marks if mark and any(mark in n for n in names)), None)
        if found != self.mark:
            raise UnknownLayoutError(
                f'no {own} backbone in it, but one that type={marks[found]!r} takes, by its keys'
            )

    def describe_checkpoint(self, state_dict: dict[str, Tensor]) -> str:
        found = self.measure(state_dict)
        seen = tuple(found[key] for key in ('depths', 'dims', 'inner', 'd_state'))
        names = [
            name
            for name, v in self.variants.items()
            if seen == (v['depths'], v['dims'], int(v['ssm_ratio'] * v['dims'][0]), v['d_state'])
        ]
        numbers = (
            f'depths {found["depths"]}, dims {found["dims"]}, {found["inner"]} channels and '
            f'{found["d_state"]} states in the first scan, with{"" if found["mlp"] else "out"} MLP'
        )
        family = type(self).__name__
        return f'{family} {names[0]} ({numbers})' if names else f'a {family} of {numbers}'

    def measure(self, state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        """The architecture's numbers that the shapes of an official state dict show.

        Returns:
            dict[str, Any]: ``depths`` and ``dims`` (one entry for each stage with a scan in the
            file), of the first block ``inner`` (channels of one scan direction) and ``d_state``,
            None where the file lacks them, and whether it has an ``mlp``.
        """
        blocks = {
            m.groups()
            for m in map(re.compile(r'^layers\.(\d+)\.blocks\.(\d+)\.').match, state_dict)
            if m
        }
        stages = sorted({int(stage) for stage, _ in blocks})
        out_proj = {i: state_dict.get(f'layers.{i}.blocks.0.op.out_proj.weight') for i in stages}
        decay = state_dict.get('layers.0.blocks.0.op.A_logs')  # (4 * inner, d_state)
        return dict(
            depths=tuple(sum(int(stage) == i for stage, _ in blocks) for i in stages),
            dims=tuple(0 if out_proj[i] is None else out_proj[i].shape[0] for i in stages),
            inner=None if decay is None else decay.shape[0] // 4,
            d_state=None if decay is None else decay.shape[1],
            mlp='layers.0.blocks.0.mlp.fc1.weight' in state_dict,
        )


def init_linear(module: nn.Module) -> None:
    """Convolutions keep PyTorch's initialisation, as in the official code."""
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
