"""ViT: the plain Vision Transformer, in the sizes of DeiT that Vim is held against.

Papers: arXiv 2010.11929 (ViT), arXiv 2012.12877 (DeiT); Vim's table 1 and figure 1 have DeiT beside
Vim. Blocks are timm's, whose parameter names are those of the official files.

Weights: facebookresearch/deit, Apache-2.0, trained on ImageNet-1K without distillation.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import trunc_normal_
from timm.models.vision_transformer import Block, PatchEmbed
from torch import Tensor, nn
from torch.nn import functional as F

from mambaout_mm.checkpoints import UnknownLayoutError
from mambaout_mm.registry import register_family

from .arch import complete, look_up
from .base import Network, Paper
from .plain import PlainBackbone, block_rates, position_grid, resize_table

WEIGHTS = 'https://dl.fbaipublicfiles.com/deit/deit_{}_patch16_224-{}.pth'
NORM_EPS = 1e-6
MLP_RATIO = 4.0

ARCHITECTURES: dict[str, dict[str, Any]] = {
    'tiny': dict(depths=(3, 3, 3, 3), dim=192),
    'small': dict(depths=(3, 3, 3, 3), dim=384),
    'base': dict(depths=(3, 3, 3, 3), dim=768),
}
DEFAULTS: dict[str, Any] = dict(head_dim=64, patch_size=16, img_size=224)


class ViTBlock(Block):
    """timm's block of attention and MLP, as a plain network takes it.

    Args:
        dim (int): Channels.
        num_heads (int): Of attention.
        drop_path (float): Rate of stochastic depth.
        fused_attention (bool): Let attention run without its matrix in memory.
    """

    def __init__(self, dim: int, num_heads: int, drop_path: float, fused_attention: bool) -> None:
        super().__init__(
            dim,
            num_heads,
            mlp_ratio=MLP_RATIO,
            qkv_bias=True,
            drop_path=drop_path,
            norm_layer=lambda channels, **kwargs: nn.LayerNorm(channels, eps=NORM_EPS, **kwargs),
        )
        self.attn.fused_attn = fused_attention

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> tuple[Tensor, None]:
        return super().forward(tokens), None


@register_family
class ViT(PlainBackbone):
    """ViT as a backbone for mmdet and mmseg, with a pyramid from stride 16 (arXiv 2012.12877).

    12 blocks on tokens of 16x16 pixels and a class token. Images of any size are padded with zeros
    to whole patches; the position embedding is resized to them (bicubic).

    Args:
        arch (str | dict): 'tiny', 'small', 'base' (DeiT-Ti, DeiT-S, DeiT-B), or a dict with
            ``depths`` (blocks up to each of four taps) and ``dim`` and optionally ``head_dim``
            (64), ``patch_size`` (16) and ``img_size`` (224; or height and width: of the images that
            the position embedding is for). Defaults to 'tiny'.
        pyramid: See :class:`PlainBackbone`. Defaults to 'taps'.
        fused_attention (bool): Compute attention without its L x L matrix in memory, as PyTorch
            does today; False keeps the matrix, as implementations did that Vim was measured
            against. Results are the same. Defaults to True.
        drop_path_rate (float): Stochastic depth, rising linearly from 0 at the first block to this
            at the last. Defaults to 0.0.
        output_norm (bool): A LayerNorm on each tapped map; that of the last tap starts from the
            published weights' final norm. Defaults to True.
        out_indices, frozen_stages, with_cp, init_cfg, channels_last: See :class:`PlainBackbone`.

    Raises:
        ValueError: If ``arch`` is unknown or one of its numbers does not fit.

    Example:
        >>> import torch
        >>> from mambaout_mm import ViT
        >>> backbone = ViT('tiny')
        >>> [tuple(out.shape) for out in backbone(torch.rand(1, 3, 64, 96))]
        [(1, 192, 16, 24), (1, 192, 8, 12), (1, 192, 4, 6), (1, 192, 2, 3)]
    """

    variants = {
        arch: dict(DEFAULTS, class_token=True, **numbers) for arch, numbers in ARCHITECTURES.items()
    }
    block_list = 'blocks'
    weights = {
        'deit://tiny': WEIGHTS.format('tiny', 'a1311bcf'),
        'deit://small': WEIGHTS.format('small', 'cd65a155'),
        'deit://base': WEIGHTS.format('base', 'b5f2ef4d'),
    }
    mirrored_weights = {
        name: f'timm://deit_{name.partition("://")[2]}_patch16_224.fb_in1k' for name in weights
    }
    networks = (
        *(
            Network(
                f'DeiT-{scale}', 'Attn', dict(type='mambaout_mm.ViT', arch=arch), presets=presets
            )
            for scale, arch, presets in (
                ('Ti', 'tiny', ('vim',)),
                ('S', 'small', ()),
                ('B', 'base', ()),
            )
        ),
        # As it was when Vim was measured against it.
        Network(
            'DeiT-Ti (materialised)',
            'Attn',
            dict(type='mambaout_mm.ViT', arch='tiny', fused_attention=False),
            presets=('vim',),
        ),
    )
    papers = {
        'DeiT': Paper(
            'https://arxiv.org/abs/2012.12877',
            'Training data-efficient image transformers & distillation through attention',
            'Attention',
        )
    }
    recipes = {'DeiT': dict(detection="Vim's, for its table 3", segmentation="Vim's, table 2")}

    def __init__(
        self,
        arch: str | dict[str, Any] = 'tiny',
        pyramid: str | None = 'taps',
        fused_attention: bool = True,
        drop_path_rate: float = 0.0,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        output_norm: bool = True,
        frozen_stages: int = -1,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
        channels_last: bool = False,
    ) -> None:
        numbers = complete(look_up('ViT', arch, ARCHITECTURES), DEFAULTS, width='dim')
        dim, patch_size = numbers['dim'], numbers['patch_size']
        if dim % numbers['head_dim']:
            raise ValueError(f'head_dim {numbers["head_dim"]} does not divide dim {dim}')
        super().__init__(
            numbers['depths'],
            dim,
            pyramid=pyramid,
            patch_size=patch_size,
            out_indices=out_indices,
            output_norm=output_norm,
            norm_eps=NORM_EPS,
            frozen_stages=frozen_stages,
            with_cp=with_cp,
            init_cfg=init_cfg,
            channels_last=channels_last,
        )
        self.grid = position_grid(numbers['img_size'], patch_size)
        self.patch_embed = PatchEmbed(
            img_size=None, patch_size=patch_size, embed_dim=dim, flatten=False
        )
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + math.prod(self.grid), dim))
        rates = block_rates(drop_path_rate, self.depths)
        self.blocks = nn.ModuleList(
            ViTBlock(dim, dim // numbers['head_dim'], rates[j], fused_attention)
            for j in range(self.ends[self.num_stages - 1])
        )
        for module in self.blocks.modules():  # DeiT's
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        trunc_normal_(self.pos_embed, std=0.02)
        trunc_normal_(self.cls_token, std=0.02)
        self.freeze_stages()

    def embed(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        height, width = (-n % self.patch_size for n in images.shape[2:])
        x = self.patch_embed(F.pad(images, (0, width, 0, height)))  # (N, C, h, w)
        size = (x.shape[2], x.shape[3])
        tokens = x.flatten(2).transpose(1, 2)  # (N, L, C)
        of_class, of_grid = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        class_token = (self.cls_token + of_class).expand(len(tokens), -1, -1)
        tokens = tokens + resize_table(of_grid, size, self.grid)
        return torch.cat((class_token, tokens), dim=1), size

    def stem(self) -> list[nn.Module | nn.Parameter]:
        return [self.patch_embed, self.pos_embed, self.cls_token]

    def to_map(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        return super().to_map(tokens[:, 1:], size)

    def convert_checkpoint(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Official names, a classifier's final norm as ``norm3``, without the head.

        Raises:
            UnknownLayoutError: If it is no ViT with a class token.
        """
        needed = {'cls_token', 'pos_embed', 'patch_embed.proj.weight', 'blocks.0.attn.qkv.weight'}
        if not needed <= state_dict.keys():
            raise UnknownLayoutError(
                f'no ViT backbone in it: {", ".join(sorted(needed - state_dict.keys()))} are not '
                f'among its {len(state_dict)} keys ({", ".join(list(state_dict)[:4])}, ...)'
            )
        own = {}
        for name, tensor in state_dict.items():
            part, dot, rest = name.partition('.')
            if part not in ('head', 'pre_logits'):
                own[f'{"norm3" if part == "norm" else part}{dot}{rest}'] = tensor
        return own
