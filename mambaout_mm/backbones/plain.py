"""Four levels from a network of one resolution.

Vim, LocalVim and PlainMamba keep their tokens at stride 16. Two ways lead from there to the maps
that FPN and UperNet take, both with one or two transposed convolutions for strides 4 and 8 and a
pooling for stride 32:

* 'last': all levels from the last block's map, LayerNorm between the transposed convolutions, as in
  the simple feature pyramid of ViTDet (arXiv 2203.16527, section 3) and in Vim's and LocalVim's
  detection code. ViTDet narrows the channels here and takes each level to 256 by itself; here the
  width stays and FPN follows, as behind every other backbone.
* 'taps': each level from a map of its own, a quarter of the blocks apart, BatchNorm between the
  transposed convolutions. BEiT's way (arXiv 2106.08254), that of Vim's segmentation code
  (hustvl/Vim ``seg/backbone/vim.py`` at dd0358a, ``if_fpn``).
"""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import accumulate, chain
from typing import Any

from timm.layers import LayerNorm2d, resample_abs_pos_embed
from torch import Tensor, nn

from mambaout_mm.ops.torch_versions import GELU
from mambaout_mm.registry import MODELS

from .base import STAGE_STRIDES, PyramidBackbone, Stage, drop_path_rates

MODELS.register_module(module=LayerNorm2d)  # norm_cfg of ViTDet's heads

STRIDE = 16  # of the tokens
PYRAMIDS = ('last', 'taps')
FEATURES = ('residual', 'mixer')

# Of a position embedding (1, L, C): (table, new_size, old_size), heights and widths in patches.
# Bicubic without anti-aliasing, as all three families do it.
resize_table = partial(resample_abs_pos_embed, num_prefix_tokens=0, antialias=False)


def pyramid_level(stride: int, dim: int, norm: type[nn.Module]) -> nn.Module:
    """A map (N, dim, H, W) at stride 16 to one at another stride, with the same channels.

    Args:
        stride (int): 4, 8, 16 or 32.
        dim (int): Channels.
        norm (type[nn.Module]): Of the norm between the two steps to stride 4.
    """

    def double() -> nn.Module:
        return nn.ConvTranspose2d(dim, dim, kernel_size=2, stride=2)

    if stride == 4:
        return nn.Sequential(double(), norm(dim), GELU(), double())
    if stride == 8:
        return nn.Sequential(double())
    if stride == 16:
        return nn.Identity()
    return nn.MaxPool2d(kernel_size=2, stride=2, ceil_mode=True)


class PlainBackbone(PyramidBackbone):
    """A network of one resolution as four stages of blocks, and their maps as a pyramid.

    A family builds its stem and its list of blocks, named by ``block_list``. Blocks take
    ``(tokens, size)`` and what :meth:`for_blocks` gives, and return the tokens after them and what
    they added to them. A family ends its ``__init__`` with :meth:`freeze_stages` and provides
    :meth:`embed`, :meth:`stem` and :meth:`convert_checkpoint`. It has variants of ``depths``,
    ``dim``, ``img_size``, ``patch_size`` and, where there is one, ``class_token``, for
    :meth:`describe_checkpoint`.

    Maps are cut to ceil(H / stride) x ceil(W / stride), which leaves out the padding that made the
    image a whole number of patches.

    Args:
        depths (Sequence[int]): Blocks up to each of the four taps, from the tap before.
        dim (int): Channels of the tokens and of every map.
        pyramid (str, optional): 'last' or 'taps', see the module; None gives the maps of the taps
            in ``out_indices`` as they are, all at stride 16. Defaults to 'taps'.
        features (str): What is tapped: 'residual', the stream that blocks add to, or 'mixer', what
            the last block before the tap added. Defaults to 'residual'.
        patch_size (int): Stride of the tokens; other than 16 without pyramid only. Defaults to 16.
        out_indices (Sequence[int]): Levels that are returned, ascending; without pyramid, taps.
            Defaults to (0, 1, 2, 3).
        **kwargs: The rest of :class:`PyramidBackbone`'s.

    Raises:
        ValueError: If an argument is none of what is listed here.
    """

    variants: Mapping[str, Mapping[str, Any]] = {}
    block_list = 'layers'  # the official name of the list of blocks
    fresh_parts = re.compile(r'norm[0-3]|fpn[1-4]')

    def __init__(
        self,
        depths: Sequence[int],
        dim: int,
        pyramid: str | None = 'taps',
        features: str = 'residual',
        patch_size: int = STRIDE,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        **kwargs: Any,
    ) -> None:
        if pyramid not in (None, *PYRAMIDS):
            raise ValueError(f"pyramid must be 'last', 'taps' or None, got {pyramid!r}")
        if features not in FEATURES:
            raise ValueError(f"features must be 'residual' or 'mixer', got {features!r}")
        if pyramid is not None and patch_size != STRIDE:
            raise ValueError(
                f'a pyramid needs tokens at stride {STRIDE}, patch_size {patch_size} does not give '
                'them; set pyramid=None'
            )
        super().__init__(
            depths,
            (dim,) * 4,
            out_indices=out_indices,
            taps=(3,) if pyramid == 'last' else None,
            **kwargs,
        )
        self.dim = dim
        self.pyramid = pyramid
        self.features = features
        self.patch_size = patch_size
        self.ends = tuple(accumulate(depths))
        if pyramid is not None:
            norm = LayerNorm2d if pyramid == 'last' else nn.BatchNorm2d
            for i in self.out_indices:
                self.add_module(f'fpn{i + 1}', pyramid_level(STAGE_STRIDES[i], dim, norm))

    @property
    def out_strides(self) -> tuple[int, ...]:
        """Stride of each returned map against the image."""
        if self.pyramid is None:
            return (self.patch_size,) * len(self.out_indices)
        # Not super()'s: torch.compile cannot follow it in a property
        return tuple(STAGE_STRIDES[i] for i in self.out_indices)

    def embed(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Tokens of images.

        Args:
            images (Tensor): (N, 3, H, W).

        Returns:
            tuple[Tensor, tuple[int, int]]: Tokens (N, L, dim), those of the map row by row, and the
            map's height and width.
        """
        raise NotImplementedError

    def stem(self) -> list[nn.Module | nn.Parameter]:
        """The modules and parameters that :meth:`embed` uses."""
        raise NotImplementedError

    def for_blocks(self, size: tuple[int, int]) -> tuple[Tensor, ...]:
        """Further inputs of every block, for a map of that height and width."""
        return ()

    def to_map(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        """The map (N, height, width, dim) in tokens (N, L, dim)."""
        return tokens.unflatten(1, size)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps of the levels in ``out_indices``.

        Args:
            x (Tensor): Images, (N, 3, H, W), of any H and W from 32.

        Returns:
            tuple[Tensor, ...]: Maps (N, dim, ceil(H / stride), ceil(W / stride)), contiguous unless
            ``channels_last``.
        """
        image_size = x.shape[2:]
        tokens, size = self.embed(x)
        inputs = (size, *self.for_blocks(size))
        maps = {}
        for i in range(self.num_stages):
            for block in self.stage(i).blocks:
                tokens, added = self.run_block(block, tokens, *inputs)
            if i in self.taps:
                tapped = self.to_map(tokens if self.features == 'residual' else added, size)
                if self.output_norm:
                    norm = getattr(self, f'norm{i}')
                    tapped = norm(tapped.to(norm.weight.dtype))
                maps[i] = tapped.permute(0, 3, 1, 2)  # (N, C, H, W)
        if self.pyramid is None:
            return tuple(self.lay_out(out) for out in maps.values())
        outs = []
        for i, stride in zip(self.out_indices, self.out_strides, strict=True):
            out = getattr(self, f'fpn{i + 1}')(maps[3 if self.pyramid == 'last' else i])
            height, width = (-(-n // stride) for n in image_size)
            outs.append(self.lay_out(out[:, :, :height, :width]))
        return tuple(outs)

    def stage(self, i: int) -> Stage:
        lead_in = self.stem() if i == 0 else []
        blocks = getattr(self, self.block_list)
        return Stage(lead_in, blocks[self.ends[i] - self.depths[i] : self.ends[i]])

    def describe_checkpoint(self, state_dict: dict[str, Tensor]) -> str:
        family = type(self).__name__
        tokens, dim = state_dict['pos_embed'].shape[-2:]  # of (1, L, C)
        depth = depth_of(state_dict, self.block_list)
        names = [
            name
            for name, v in self.variants.items()
            if (depth, dim, tokens)
            == (
                sum(v['depths']),
                v['dim'],
                (v['img_size'] // v['patch_size']) ** 2 + v.get('class_token', False),
            )
        ]
        numbers = f'{depth} layers of {dim} channels, {tokens} positions'
        return f'{family} {names[0]} ({numbers})' if names else f'a {family} of {numbers}'

    def get_layer_depth(
        self, param_name: str, prefix: str = '', stage_wise: bool = False
    ) -> tuple[int, int]:
        """Layer id of a parameter, and the number of layers, for learning-rate decay.

        Layer-wise as for a ViT (BEiT, ViTDet): 0 the embeddings, one id for each block, and one
        more for output norms, pyramid, neck and heads. Stage-wise as in :class:`PyramidBackbone`.
        """
        if stage_wise:
            return super().get_layer_depth(param_name, prefix, stage_wise)
        num_layers = self.ends[-1] + 2
        ours = param_name.startswith(prefix)
        position = self.stage_and_block(param_name.removeprefix(prefix)) if ours else None
        if position is None:
            return num_layers - 1, num_layers
        stage, block = position
        if block is None:
            return 0, num_layers
        return self.ends[stage] - self.depths[stage] + block + 1, num_layers

    def is_unbuilt(self, name: str) -> bool:
        """Whether a parameter is of a layer that this architecture has and this model not."""
        part, *rest = name.split('.')
        built = self.ends[self.num_stages - 1]
        return (
            part == self.block_list and rest[0].isdigit() and built <= int(rest[0]) < self.ends[-1]
        )


def depth_of(state_dict: Mapping[str, Tensor], block_list: str = 'layers') -> int:
    """Number of layers in a state dict, given what their list is called."""
    pattern = re.compile(rf'^{block_list}\.(\d+)\.')
    return len({m.group(1) for m in map(pattern.match, state_dict) if m})


def position_grid(img_size: int | Sequence[int], patch_size: int) -> tuple[int, int]:
    """Height and width in patches of the images that a position embedding is for.

    Raises:
        ValueError: If they are not one or two positive integers that the patch size divides.
    """
    sides = (img_size, img_size) if isinstance(img_size, int) else img_size
    if not isinstance(sides, Sequence) or [type(side) for side in sides] != [int, int]:
        raise ValueError(f'img_size must be an integer or height and width, got {img_size!r}')
    if min(sides) < 1 or any(side % patch_size for side in sides):
        raise ValueError(f'img_size {img_size} is no multiple of patch_size {patch_size}')
    return sides[0] // patch_size, sides[1] // patch_size


def block_rates(drop_path_rate: float, depths: Sequence[int]) -> list[float]:
    """Stochastic-depth rate of every block, rising linearly from 0 at the first to the last."""
    return list(chain.from_iterable(drop_path_rates(drop_path_rate, depths)))
