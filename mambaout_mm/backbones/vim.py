"""Vim: a plain network of Mamba blocks that read the tokens from both ends.

Paper: arXiv 2401.09417. Parameter names are those of the official code (hustvl/Vim
``vim/models_mamba.py`` at dd0358a), so that its files load as they are. Of its options these are
the ones of the released weights: bidirectional "v2" (``bimamba_type``), halved sum of the
directions (``if_divide_out``), RMSNorm, absolute position embedding, class token in the middle.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.layers import DropPath, lecun_normal_, trunc_normal_
from torch import Tensor, nn
from torch.nn import functional as F

from mambaout_mm.checkpoints import vim as checkpoint_layout
from mambaout_mm.checkpoints.plain import describe
from mambaout_mm.registry import register_backbone

from .arch import complete, look_up
from .mamba_mixer import DirectionNames, MambaMixer
from .simple_pyramid import PlainBackbone, block_rates, position_grid, resize_table

NORM_EPS = 1e-5

ARCHITECTURES: dict[str, dict[str, Any]] = {
    'tiny': dict(depths=(6, 6, 6, 6), dim=192),
    'small': dict(depths=(6, 6, 6, 6), dim=384),
    'base': dict(depths=(6, 6, 6, 6), dim=768),
}
DEFAULTS: dict[str, Any] = dict(d_state=16, patch_size=16, img_size=224)

FORWARD = DirectionNames('conv1d', 'x_proj', 'dt_proj', 'A_log', 'D')
BACKWARD = DirectionNames('conv1d_b', 'x_proj_b', 'dt_proj_b', 'A_b_log', 'D_b')


class BidirectionalMixer(MambaMixer):
    """Mean of a scan from the first token to the last and one back; see :class:`MambaMixer`."""

    def __init__(self, dim: int, d_state: int) -> None:
        super().__init__(dim, d_state, (FORWARD, BACKWARD))

    def mix(self, x: Tensor, gate: Tensor, size: tuple[int, int]) -> Tensor:
        y = self.scan(torch.stack((x, x.flip(1)), dim=1))  # (N, 2, L, E)
        return ((y[:, 0] + y[:, 1].flip(1)) / 2).to(x.dtype) * gate


class MambaBlock(nn.Module):
    """Tokens plus ``mixer(norm(tokens))``, and what the mixer gave.

    Args:
        norm (nn.Module): Over the channels of a token.
        mixer (nn.Module): Takes tokens (N, L, dim) and the map's height and width.
        drop_path (float): Rate of stochastic depth.
    """

    def __init__(self, norm: nn.Module, mixer: nn.Module, drop_path: float) -> None:
        super().__init__()
        self.norm = norm
        self.mixer = mixer
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        added = self.mixer(self.norm(tokens), size)
        return tokens + self.drop_path(added), added


class PatchTokens(PlainBackbone):
    """What Vim and LocalVim have in common: patches, position embedding and class token.

    Args:
        numbers (dict): Of the variant.
        class_token (bool): A token in the middle of the sequence, at L // 2, with a row of the
            position embedding. It is scanned with the others and is no part of the maps.
        drop_path_rate (float): Of the last block, rising linearly from 0 at the first.
        block (Callable[[int, float], nn.Module]): Builds a block, given its number and its rate of
            stochastic depth.
        **kwargs: See :class:`PlainBackbone`.
    """

    def __init__(
        self,
        numbers: dict[str, Any],
        class_token: bool,
        drop_path_rate: float,
        block: Callable[[int, float], nn.Module],
        **kwargs: Any,
    ) -> None:
        dim, patch_size = numbers['dim'], numbers['patch_size']
        super().__init__(numbers['depths'], dim, patch_size=patch_size, norm_eps=NORM_EPS, **kwargs)
        self.grid = position_grid(numbers['img_size'], patch_size)
        proj = nn.Conv2d(3, dim, patch_size, stride=patch_size)
        self.patch_embed = nn.Sequential(OrderedDict(proj=proj))
        self.pos_embed = nn.Parameter(torch.empty(1, math.prod(self.grid) + class_token, dim))
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim)) if class_token else None
        rates = block_rates(drop_path_rate, self.depths)
        self.layers = nn.ModuleList(
            block(j, rates[j]) for j in range(self.ends[self.num_stages - 1])
        )
        lecun_normal_(proj.weight)
        nn.init.zeros_(proj.bias)
        trunc_normal_(self.pos_embed, std=0.02)
        if class_token:
            trunc_normal_(self.cls_token, std=0.02)
        for layer in self.layers:
            with torch.no_grad():  # GPT-2's, one residual path for each layer
                layer.mixer.out_proj.weight.div_(math.sqrt(self.ends[-1]))

    def embed(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        height, width = (-n % self.patch_size for n in images.shape[2:])
        x = self.patch_embed(F.pad(images, (0, width, 0, height)))  # (N, C, h, w)
        size = (x.shape[2], x.shape[3])
        # What is added to them keeps their layout: a token's channels side by side
        tokens = x.flatten(2).transpose(1, 2).contiguous()  # (N, L, C)
        if self.cls_token is None:
            return tokens + resize_table(self.pos_embed, size, self.grid), size
        positions, class_position = without_middle(self.pos_embed)
        positions = resize_table(positions, size, self.grid)
        class_token = (self.cls_token + class_position).expand(len(tokens), -1, -1)
        return with_middle(tokens + positions, class_token), size

    def stem(self) -> list[nn.Module | nn.Parameter]:
        tokens = [] if self.cls_token is None else [self.cls_token]
        return [self.patch_embed, self.pos_embed, *tokens]

    def to_map(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        if self.cls_token is not None:
            tokens, _ = without_middle(tokens)
        return super().to_map(tokens, size)


@register_backbone
class Vim(PatchTokens):
    """Vim as a backbone for mmdet and mmseg, with a pyramid from stride 16 (arXiv 2401.09417).

    24 blocks on tokens of 16x16 pixels. Images of any size are padded with zeros to whole patches;
    the position embedding is resized to them (bicubic), as the published fine-tunings do it.

    Published ImageNet weights have a class token. The authors' segmentation code leaves it out, and
    reads its position as one of the grid's; here ``class_token=False`` takes both out of a file.

    Args:
        arch (str | dict): 'tiny', 'small', 'base', or a dict with ``depths`` (blocks up to each of
            four taps) and ``dim`` and optionally ``d_state`` (16), ``patch_size`` (16) and
            ``img_size`` (224; or height and width: of the images that the position embedding is
            for). Defaults to 'tiny'.
        class_token (bool): As in training on ImageNet. Defaults to True.
        pyramid, features: See :class:`PlainBackbone`. The authors' detectors use 'last', their
            segmentors 'taps' of features 'mixer' (Vim-Ti) or 'residual' (Vim-S). Default to 'taps'
            and 'residual'.
        drop_path_rate (float): Stochastic depth, rising linearly from 0 at the first block to this
            at the last. Defaults to 0.0.
        output_norm (bool): An RMSNorm on each tapped map; that of the last tap starts from the
            published weights' final norm if features are 'residual'. Defaults to True.
        out_indices, frozen_stages, with_cp, init_cfg, channels_last: See :class:`PlainBackbone`.

    Raises:
        ValueError: If ``arch`` is unknown or one of its numbers does not fit.

    Example:
        >>> import torch
        >>> from mambaout_mm import Vim
        >>> backbone = Vim('tiny')
        >>> [tuple(out.shape) for out in backbone(torch.rand(1, 3, 64, 96))]
        [(1, 192, 16, 24), (1, 192, 8, 12), (1, 192, 4, 6), (1, 192, 2, 3)]
    """

    output_norm_type = nn.RMSNorm

    def __init__(
        self,
        arch: str | dict[str, Any] = 'tiny',
        class_token: bool = True,
        pyramid: str | None = 'taps',
        features: str = 'residual',
        drop_path_rate: float = 0.0,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        output_norm: bool = True,
        frozen_stages: int = -1,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
        channels_last: bool = False,
    ) -> None:
        numbers = resolve_arch(arch)
        dim = numbers['dim']
        super().__init__(
            numbers,
            class_token,
            drop_path_rate,
            block=lambda _, rate: MambaBlock(
                nn.RMSNorm(dim, eps=NORM_EPS), BidirectionalMixer(dim, numbers['d_state']), rate
            ),
            pyramid=pyramid,
            features=features,
            out_indices=out_indices,
            output_norm=output_norm,
            frozen_stages=frozen_stages,
            with_cp=with_cp,
            init_cfg=init_cfg,
            channels_last=channels_last,
        )
        self.freeze_stages()

    def convert_checkpoint(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.features == 'mixer':  # a classifier's final norm is for its stream
            state_dict = {n: x for n, x in state_dict.items() if not n.startswith('norm_f.')}
        own = checkpoint_layout.to_own(state_dict, 'Vim', '.mixer.A_b_log', self.normed_taps)
        if self.cls_token is None and own.pop('cls_token', None) is not None:
            own['pos_embed'], _ = without_middle(own['pos_embed'])
        return own

    def describe_checkpoint(self, state_dict: dict[str, Tensor]) -> str:
        variants = {name: dict(resolve_arch(name), class_token=True) for name in ARCHITECTURES}
        return describe('Vim', state_dict, variants)


def with_middle(tokens: Tensor, token: Tensor) -> Tensor:
    """Tokens (N, L, C) with one more (N, 1, C) before the one at L // 2."""
    middle = tokens.shape[1] // 2
    return torch.cat((tokens[:, :middle], token, tokens[:, middle:]), dim=1)


def without_middle(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse of :func:`with_middle`: (N, L, C) and (N, 1, C) of (N, L + 1, C)."""
    middle = (tokens.shape[1] - 1) // 2
    rest = torch.cat((tokens[:, :middle], tokens[:, middle + 1 :]), dim=1)
    return rest, tokens[:, middle : middle + 1]


def resolve_arch(arch: str | dict[str, Any]) -> dict[str, Any]:
    """All numbers of a variant, given its name or a dict of those that differ from the defaults.

    Raises:
        ValueError: If the name or a key is unknown, or ``depths`` or ``dim`` is missing.
    """
    return complete(look_up('Vim', arch, ARCHITECTURES), DEFAULTS, width='dim')
