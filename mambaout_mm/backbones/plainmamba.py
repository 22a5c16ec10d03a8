"""PlainMamba: a plain network of Mamba layers that read a map along four snakes.

Paper: arXiv 2403.17695. Parameter names are those of the official code
(ChenhongyiYang/PlainMamba at 0975a1d), so that its files load as they are.

Weights: huggingface.co/ChenhongyiYang, Apache-2.0.
"""

import math
from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from timm.layers import DropPath, trunc_normal_
from torch import Tensor, nn
from torch.nn import functional as F

from mambaout_mm.checkpoints import UnknownLayoutError
from mambaout_mm.ops.scan_orders import MOVES, snake_merge, snake_moves, snake_scan
from mambaout_mm.ops.selective_scan import selective_scan
from mambaout_mm.ops.torch_versions import GELU
from mambaout_mm.registry import register_family

from .arch import complete, is_published, look_up
from .base import DenseWeights, Network, Paper
from .depthwise import DepthwiseConv2d
from .mamba import EXPANSION, decays, init_decays, init_steps
from .plain import PlainBackbone, block_rates, depth_of, position_grid, resize_table
from .vss import init_linear

WEIGHTS = 'https://huggingface.co/ChenhongyiYang/PlainMamba/resolve/main/{}.pth'
DIRECTIONS = 4
LAYER_NORM_EPS = 1e-5  # inside the layers; output norms have 1e-6
STEM_CHANNELS = 64
STEM_STRIDE = 2

ARCHITECTURES: dict[str, dict[str, Any]] = {
    'l1': dict(depths=(6, 6, 6, 6), dim=192, num_convs_patch_embed=1, layers_with_dwconv=(0,)),
    'l2': dict(depths=(6, 6, 6, 6), dim=384),
    'l3': dict(depths=(9, 9, 9, 9), dim=448),
}
DEFAULTS: dict[str, Any] = dict(
    d_state=16, patch_size=16, img_size=224, num_convs_patch_embed=2, layers_with_dwconv=()
)


class PatchEmbed(nn.Module):
    """Convolutions at half the resolution, then patches: (N, 3, H, W) to (N, dim, h, w).

    The half-size map is padded with zeros at its bottom and right to whole patches, so h is
    ceil(H / patch_size).

    Args:
        dim (int): Channels of a patch.
        patch_size (int): Pixels of the image on its side.
        num_convs (int): 3x3 convolutions between the first one and the patches.
    """

    def __init__(self, dim: int, patch_size: int, num_convs: int) -> None:
        super().__init__()
        self.side = patch_size // STEM_STRIDE
        self.stem = conv_norm_act(3, kernel_size=7, stride=STEM_STRIDE)
        convs = (conv_norm_act(STEM_CHANNELS, kernel_size=3, stride=1) for _ in range(num_convs))
        self.convs = nn.Sequential(*chain.from_iterable(convs))
        self.projection = nn.Conv2d(STEM_CHANNELS, dim, self.side, stride=self.side)

    def forward(self, images: Tensor) -> Tensor:
        x = self.convs(self.stem(images))  # (N, 64, ceil(H / 2), ceil(W / 2))
        height, width = (-n % self.side for n in x.shape[2:])
        return self.projection(F.pad(x, (0, width, 0, height)))


def conv_norm_act(in_channels: int, kernel_size: int, stride: int) -> nn.Sequential:
    """Convolution to the stem's channels, BatchNorm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(
            in_channels,
            STEM_CHANNELS,
            kernel_size,
            stride=stride,
            padding=kernel_size // 2,
            bias=False,
        ),
        nn.BatchNorm2d(STEM_CHANNELS),
        nn.ReLU(),
    )


class SnakeMixer(nn.Module):
    """Sum of four scans of a map with one set of parameters, gated.

    Project to E = 2 dim channels and as many for a gate, convolve 7x7, scan along four snakes. B of
    each step has a learnt row added for the move that led there.

    Args:
        dim (int): Channels.
        d_state (int): Size N of a channel's state.
        published (bool): Scan as the authors' code does, see :class:`PlainMamba`.
    """

    def __init__(self, dim: int, d_state: int, published: bool) -> None:
        super().__init__()
        inner = EXPANSION * dim
        rank = math.ceil(dim / 16)
        self.published = published
        self.parameter_sizes = (rank, d_state, d_state)  # dt, B, C
        self.in_proj = nn.Linear(dim, 2 * inner)
        self.conv2d = DepthwiseConv2d(inner, 7)
        self.x_proj = nn.Linear(inner, sum(self.parameter_sizes), bias=False)
        self.dt_proj = nn.Linear(rank, inner)
        self.A_log = nn.Parameter(torch.empty(inner, d_state))
        self.D = nn.Parameter(torch.ones(inner))
        self.direction_Bs = nn.Parameter(torch.empty(len(MOVES), d_state))
        self.out_proj = nn.Linear(inner, dim)
        self.apply(init_linear)
        # The authors' configs initialise all linear layers alike, dt_proj too, whose bias of zero
        # starts all steps at softplus(0) = .69. It looks like an accident; here Mamba's are kept.
        init_steps(self.dt_proj.weight, self.dt_proj.bias)
        init_decays(self.A_log)
        trunc_normal_(self.direction_Bs, std=0.02)

    def forward(self, tokens: Tensor, size: tuple[int, int], moves: Tensor) -> Tensor:
        """Mix tokens (N, L, dim) of a map of that height and width, given its `snake_moves`."""
        x, z = self.in_proj(tokens).chunk(2, dim=-1)  # (N, L, E)
        x = x.unflatten(1, size).permute(0, 3, 1, 2)  # (N, E, H, W)
        x = F.silu(self.conv2d(x)).permute(0, 2, 3, 1)  # (N, H, W, E)
        dt, B, C = self.x_proj(x).split(self.parameter_sizes, dim=-1)
        dt = dt @ self.dt_proj.weight.T  # (N, H, W, E)
        B = self.steps(B) + F.embedding(moves, self.direction_Bs)  # (N, 4, L, d_state)
        bias = self.dt_proj.bias
        y = selective_scan(
            snake_scan(x).transpose(2, 3),
            self.steps(dt).transpose(2, 3),
            decays(self.A_log).repeat(DIRECTIONS, 1),
            B.transpose(2, 3),
            self.steps(C).transpose(2, 3),
            self.D.repeat(DIRECTIONS),
            (2 * bias if self.published else bias).repeat(DIRECTIONS),
        )  # (N, 4, E, L)
        y = snake_merge(y.transpose(2, 3), *size).flatten(1, 2)  # (N, L, E)
        return self.out_proj(y.to(x.dtype) * F.silu(z))

    def steps(self, x: Tensor) -> Tensor:
        """What goes with each step of the four scans, (N, 4, L, F), of a map (N, H, W, F)."""
        if self.published:
            return x.flatten(1, 2)[:, None].expand(-1, DIRECTIONS, -1, -1)
        return snake_scan(x)


class PlainMambaLayer(nn.Module):
    """Tokens plus ``mamba(norm(tokens))``, and what the mixer gave.

    Args:
        mamba (nn.Module): The mixer.
        dim (int): Channels.
        with_dwconv (bool): Replace the tokens that result by GELU(BatchNorm(depthwise 3x3
            convolution)) of their map, without a path around it.
        drop_path (float): Rate of stochastic depth.
    """

    def __init__(self, mamba: nn.Module, dim: int, with_dwconv: bool, drop_path: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.mamba = mamba
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.dw = None
        if with_dwconv:
            conv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, bias=False)
            self.dw = nn.Sequential(conv, nn.BatchNorm2d(dim), GELU())

    def forward(
        self, tokens: Tensor, size: tuple[int, int], moves: Tensor
    ) -> tuple[Tensor, Tensor]:
        added = self.mamba(self.norm(tokens), size, moves)
        tokens = tokens + self.drop_path(added)
        if self.dw is not None:
            tokens = to_tokens(self.dw(tokens.unflatten(1, size).permute(0, 3, 1, 2)))
        return tokens, added


def to_tokens(x: Tensor) -> Tensor:
    """Tokens (N, H * W, C) of a map (N, C, H, W).

    In memory a token's channels lie side by side, the layout that layers read, and that what they
    add to keeps. With another one behind it (``flatten(2).transpose(1, 2)``) a BatchNorm gives a
    wrong gradient for one image on the CPU (PyTorch 2.14).
    """
    return x.permute(0, 2, 3, 1).flatten(1, 2).contiguous()


def resolve_arch(arch: str | dict[str, Any]) -> dict[str, Any]:
    """All numbers of a variant, given its name or a dict of those that differ from the defaults.

    Raises:
        ValueError: If the name or a key is unknown, ``depths`` or ``dim`` is missing, or a number
            is out of range.
    """
    numbers = complete(look_up('PlainMamba', arch, ARCHITECTURES), DEFAULTS, width='dim')
    if numbers['patch_size'] < STEM_STRIDE or numbers['patch_size'] % STEM_STRIDE:
        raise ValueError(
            f'patch_size must be a multiple of {STEM_STRIDE}, the stride of the first convolution, '
            f'got {numbers["patch_size"]}'
        )
    if (
        not isinstance(numbers['num_convs_patch_embed'], int)
        or numbers['num_convs_patch_embed'] < 0
    ):
        raise ValueError(
            'num_convs_patch_embed must be a number of convolutions, got '
            f'{numbers["num_convs_patch_embed"]!r}'
        )
    depth, with_dwconv = sum(numbers['depths']), numbers['layers_with_dwconv']
    if not isinstance(with_dwconv, tuple) or not set(with_dwconv) <= set(range(depth)):
        raise ValueError(
            f'layers_with_dwconv must be out of 0 to {depth - 1}, the layers that depths give, got '
            f'{with_dwconv}'
        )
    return numbers


@register_family
class PlainMamba(PlainBackbone):
    """PlainMamba as a backbone for mmdet and mmseg, with a pyramid from stride 16.

    Paper: arXiv 2403.17695. 24 or 36 layers on tokens of 16x16 pixels, for images of any size; the
    position embedding is resized to them (bicubic), as in the official code. The authors' detectors
    have a ViT-Adapter around these layers, their segmentors the four maps without a pyramid.

    It has BatchNorm, which trains on each GPU's own images; with ``with_cp`` that of L1's first
    layer updates its running statistics twice for each image.

    Args:
        arch (str | dict): 'l1', 'l2', 'l3', or a dict with ``depths`` (layers up to each of four
            taps) and ``dim`` and optionally ``d_state`` (16), ``patch_size`` (16), ``img_size``
            (224; or height and width: of the images that the position embedding is for),
            ``num_convs_patch_embed`` (3x3 convolutions in the stem; 2) and ``layers_with_dwconv``
            (numbers of the layers with a depthwise convolution behind them; none). Defaults to
            'l1'.
        scan (str): 'published' is the authors' code, on which their weights depend: steps, B and C
            stay row by row while each direction reads the map in its own order, and the bias of the
            steps counts twice. 'corrected', for new training, takes them along in each direction's
            order, with the bias once. Parameters are the same, but published weights are another
            network with 'corrected', whose accuracy was never measured: fine-tune it, or use
            'published'. Defaults to 'corrected'.
        pyramid: See :class:`PlainBackbone`. Defaults to 'taps'.
        drop_path_rate (float): Stochastic depth, rising linearly from 0 at the first layer to this
            at the last. Defaults to 0.0.
        output_norm (bool): A LayerNorm on each tapped map; that of the last tap starts from the
            published weights' final norm. Defaults to True.
        out_indices, frozen_stages, with_cp, init_cfg, channels_last: See :class:`PlainBackbone`.

    Raises:
        ValueError: If ``arch`` or ``scan`` is unknown or one of the numbers does not fit.

    Example:
        >>> import torch
        >>> from mambaout_mm import PlainMamba
        >>> backbone = PlainMamba('l1')
        >>> [tuple(out.shape) for out in backbone(torch.rand(1, 3, 64, 96))]
        [(1, 192, 16, 24), (1, 192, 8, 12), (1, 192, 4, 6), (1, 192, 2, 3)]
    """

    variants = {arch: resolve_arch(arch) for arch in ARCHITECTURES}
    mark = '.mamba.direction_Bs'
    weights = {f'plainmamba://{arch}': WEIGHTS.format(arch) for arch in ARCHITECTURES}
    dense_weights = {
        f'plainmamba-seg://{arch}': DenseWeights(
            WEIGHTS.format(f'segmentation/{arch}_upernet'),
            f'segmentation/upernet_plainmamba_{arch}_published',
            f'PlainMamba-{arch.upper()}',
            '160k',
        )
        for arch in ARCHITECTURES
    }
    networks = tuple(
        Network(
            name,
            'Conv+SSM',
            dict(type='mambaout_mm.PlainMamba', arch=arch),
            name,
            presets=presets,
            other_heads='published with UperNet on four maps at stride 16',
        )
        for name, arch, presets in (
            ('PlainMamba-L1', 'l1', ()),
            ('PlainMamba-L2', 'l2', ('mambas',)),
            ('PlainMamba-L3', 'l3', ()),
        )
    )
    papers = {
        'PlainMamba': Paper(
            'https://arxiv.org/abs/2403.17695',
            'PlainMamba: Improving Non-Hierarchical Mamba in Visual Recognition',
            'Continuous 2-D selective scan',
        )
    }
    recipes = {
        'PlainMamba': dict(
            detection='FP32, 8 x 2 images, behind a ViT-Adapter, SyncBN in FPN and box head',
            segmentation='FP32, 8 x 2 images, lr 6e-5, UperNet on four maps at stride 16',
        )
    }

    def __init__(
        self,
        arch: str | dict[str, Any] = 'l1',
        scan: str = 'corrected',
        pyramid: str | None = 'taps',
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
        dim, patch_size = numbers['dim'], numbers['patch_size']
        super().__init__(
            numbers['depths'],
            dim,
            pyramid=pyramid,
            patch_size=patch_size,
            out_indices=out_indices,
            output_norm=output_norm,
            frozen_stages=frozen_stages,
            with_cp=with_cp,
            init_cfg=init_cfg,
            channels_last=channels_last,
        )
        self.grid = position_grid(numbers['img_size'], patch_size)
        self.patch_embed = PatchEmbed(dim, patch_size, numbers['num_convs_patch_embed'])
        self.pos_embed = nn.Parameter(torch.empty(1, math.prod(self.grid), dim))
        trunc_normal_(self.pos_embed, std=0.02)
        rates = block_rates(drop_path_rate, self.depths)
        self.layers = nn.ModuleList(
            PlainMambaLayer(
                SnakeMixer(dim, numbers['d_state'], published),
                dim,
                with_dwconv=j in numbers['layers_with_dwconv'],
                drop_path=rates[j],
            )
            for j in range(self.ends[self.num_stages - 1])
        )
        self.freeze_stages()

    def embed(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        x = self.patch_embed(images)  # (N, C, h, w)
        size = (x.shape[2], x.shape[3])
        return to_tokens(x) + resize_table(self.pos_embed, size, self.grid), size

    def stem(self) -> list[nn.Module | nn.Parameter]:
        return [self.patch_embed, self.pos_embed]

    def for_blocks(self, size: tuple[int, int]) -> tuple[Tensor, ...]:
        return (snake_moves(*size, device=self.pos_embed.device),)

    def convert_checkpoint(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Names as they are here, without the head.

        The official layout is the one here but for the norms: ``ln1`` behind a file's last layer
        and ``norm_layer{j}`` behind layer j, of segmentors, are the output norms of the taps there.

        Raises:
            UnknownLayoutError: If it is not of this family.
        """
        if 'pos_embed' not in state_dict or not any(n.endswith(self.mark) for n in state_dict):
            raise UnknownLayoutError(
                f'no PlainMamba backbone in it: pos_embed and layers.*{self.mark} are not among '
                f'its {len(state_dict)} keys ({", ".join(list(state_dict)[:4])}, ...)'
            )
        norms = {f'norm_layer{end - 1}': f'norm{i}' for i, end in enumerate(self.ends)}
        depth = depth_of(state_dict)
        if depth in self.ends:
            norms['ln1'] = f'norm{self.ends.index(depth)}'
        own = {}
        for name, tensor in state_dict.items():
            part, dot, rest = name.partition('.')
            if part != 'head':
                own[f'{norms.get(part, part)}{dot}{rest}'] = tensor
        return own
