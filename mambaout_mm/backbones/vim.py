"""Vim: a plain network of Mamba blocks that read the tokens from both ends.

Paper: arXiv 2401.09417. Parameter names are those of the official code (hustvl/Vim
``vim/models_mamba.py`` at dd0358a), so that its files load as they are. Of its options these are
the ones of the released weights: bidirectional "v2" (``bimamba_type``), halved sum of the
directions (``if_divide_out``), RMSNorm, absolute position embedding, class token in the middle.

Weights: huggingface.co/hustvl, Apache-2.0; those trained at stride 16.
"""

import math
import re
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from timm.layers import DropPath, lecun_normal_, trunc_normal_
from torch import Tensor, nn
from torch.nn import functional as F

from mambaout_mm.checkpoints import CheckpointError, UnknownLayoutError
from mambaout_mm.ops.torch_versions import RMSNorm
from mambaout_mm.registry import register_family

from .arch import complete, look_up
from .base import Network, Paper
from .mamba import DirectionNames, MambaMixer
from .plain import PlainBackbone, block_rates, position_grid, resize_table

WEIGHTS = 'https://huggingface.co/hustvl/Vim-{}-midclstok/resolve/main/vim_{}_midclstok_{}acc.pth'
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
        forward, backward = y.unbind(1)
        return ((forward + backward.flip(1)) / 2).to(x.dtype) * gate


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
    """What Vim and LocalVim share: patches, position embedding, class token, published layout.

    The official layouts (hustvl/Vim at dd0358a, hunto/LocalMamba at 75e5d1f) are the one here but
    for the norms: a classifier's final norm ``norm_f`` is the last tap's output norm ``norm3``
    here, and ``outnorm_{j}`` of LocalVim's detectors and segmentors is that of the j-th block of
    their ``out_indices``.

    Args:
        numbers (dict): Of the variant.
        class_token (bool): A token in the middle of the sequence, at L // 2, with a row of the
            position embedding. It is scanned with the others and is no part of the maps.
        drop_path_rate (float): Of the last block, rising linearly from 0 at the first.
        block (Callable[[int, float], nn.Module]): Builds a block, given its number and its rate of
            stochastic depth.
        **kwargs: See :class:`PlainBackbone`.
    """

    mark: str  # what a name of this family's blocks, and of no other's, ends with

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

    def convert_checkpoint(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Names as they are here, without the head.

        Raises:
            UnknownLayoutError: If it is not of this family.
            CheckpointError: If its output norms cannot be told apart.
        """
        needed = {'patch_embed.proj.weight', 'pos_embed'}
        if not needed <= state_dict.keys() or not any(n.endswith(self.mark) for n in state_dict):
            raise UnknownLayoutError(
                f'no {type(self).__name__} backbone in it: {", ".join(sorted(needed))} and '
                f'layers.*{self.mark} are not among its {len(state_dict)} keys '
                f'({", ".join(list(state_dict)[:4])}, ...)'
            )
        renamed = {'norm_f': 'norm3', **self._output_norms(state_dict)}
        own = {}
        for name, tensor in state_dict.items():
            part, dot, rest = name.partition('.')
            # A classifier's final norm is for the stream, not for what a mixer adds to it.
            if part != 'head' and not (part == 'norm_f' and self.features == 'mixer'):
                own[f'{renamed.get(part, part)}{dot}{rest}'] = tensor
        return own

    def _output_norms(self, names: Collection[str]) -> dict[str, str]:
        """Names here of a file's ``outnorm_{j}``; j counts its taps, whichever blocks they are.

        Four are those of all taps. Else the model must have as many, and is taken to have the same.
        """
        taps = self.normed_taps
        parts = {name.partition('.')[0] for name in names}
        found = sorted(int(m[1]) for m in map(re.compile(r'outnorm_(\d+)').fullmatch, parts) if m)
        if found == [0, 1, 2, 3] or not taps:
            return {f'outnorm_{j}': f'norm{j}' for j in found}
        if found and found != list(range(len(taps))):
            raise CheckpointError(
                f'its output norms ({", ".join(f"outnorm_{j}" for j in found)}) are those of '
                f'{len(found)} taps and this model has {len(taps)} ({", ".join(map(str, taps))}), '
                "so which belongs to which cannot be told; build the model with the file's taps by "
                "out_indices, or pyramid='last' for the last block alone"
            )
        return {f'outnorm_{j}': f'norm{taps[j]}' for j in found}


def resolve_arch(arch: str | dict[str, Any]) -> dict[str, Any]:
    """All numbers of a variant, given its name or a dict of those that differ from the defaults.

    Raises:
        ValueError: If the name or a key is unknown, or ``depths`` or ``dim`` is missing.
    """
    return complete(look_up('Vim', arch, ARCHITECTURES), DEFAULTS, width='dim')


@register_family
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

    output_norm_type = RMSNorm
    variants = {arch: dict(resolve_arch(arch), class_token=True) for arch in ARCHITECTURES}
    mark = '.mixer.A_b_log'
    weights = {
        'vim://tiny': WEIGHTS.format('tiny', 't', '76p1'),
        'vim://small': WEIGHTS.format('small', 's', '80p5'),
        'vim://base': WEIGHTS.format('base', 'b', '81p9'),
    }
    networks = tuple(
        Network(name, 'Conv+SSM', dict(type='mambaout_mm.Vim', arch=arch), name, presets=presets)
        for name, arch, presets in (
            ('Vim-Ti', 'tiny', ('vim',)),
            ('Vim-S', 'small', ('mambas',)),
            ('Vim-B', 'base', ()),
        )
    )
    papers = {
        'Vim': Paper(
            'https://arxiv.org/abs/2401.09417',
            'Vision Mamba: Efficient Visual Representation Learning with Bidirectional State '
            'Space Model',
            'Bidirectional Mamba block',
        )
    }
    recipes = {
        'Vim': dict(
            detection='as ViTDet: Cascade, 100 epochs, 1024x1024, batch 64',
            segmentation='FP32, batch 32, lr 1e-4 or 2e-4, sliding-window test',
        )
    }

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
                RMSNorm(dim, eps=NORM_EPS), BidirectionalMixer(dim, numbers['d_state']), rate
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
        own = super().convert_checkpoint(state_dict)
        if self.cls_token is None and own.pop('cls_token', None) is not None:
            own['pos_embed'], _ = without_middle(own['pos_embed'])
        return own


def with_middle(tokens: Tensor, token: Tensor) -> Tensor:
    """Tokens (N, L, C) with one more (N, 1, C) before the one at L // 2."""
    middle = tokens.shape[1] // 2
    return torch.cat((tokens[:, :middle], token, tokens[:, middle:]), dim=1)


def without_middle(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse of :func:`with_middle`: (N, L, C) and (N, 1, C) of (N, L + 1, C)."""
    middle = (tokens.shape[1] - 1) // 2
    rest = torch.cat((tokens[:, :middle], tokens[:, middle + 1 :]), dim=1)
    return rest, tokens[:, middle : middle + 1]
