"""LocalVim: Vim with four scan orders in each block, some of them window by window.

Paper: arXiv 2403.09338. Parameter names are those of the official code (hunto/LocalMamba
``classification/lib/models/local_vim.py`` at 75e5d1f), so that its files load as they are.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mambaout_mm.ops.scan_orders import local_scan, local_unscan
from mambaout_mm.ops.torch_versions import RMSNorm
from mambaout_mm.registry import register_family

from .arch import complete, is_published, look_up
from .base import Network, Paper
from .local_mamba import LOCALVIM_TINY, WEIGHTS, ChannelGate, complete_directions
from .mamba import EXPANSION, DirectionNames, MambaMixer
from .plain import resize_table
from .vim import NORM_EPS, MambaBlock, PatchTokens, without_middle

ROPE_SIDE = 14  # positions of the rotary embedding run from 0 to this, whatever the grid
ROPE_BASE = 10_000

_DEPTHS = (5, 5, 5, 5)
ARCHITECTURES: dict[str, dict[str, Any]] = {
    'tiny': dict(depths=_DEPTHS, dim=192, directions=LOCALVIM_TINY),
    'small': dict(depths=_DEPTHS, dim=384),
    'tiny_middle_cls_token': dict(
        depths=_DEPTHS, dim=192, directions=LOCALVIM_TINY, class_token=True, rope=False
    ),
}
DEFAULTS: dict[str, Any] = dict(
    d_state=16,
    patch_size=16,
    img_size=224,
    directions=None,
    class_token=False,
    rope=True,
    rms_norm=True,
)


class LocalMixer(MambaMixer):
    """Sum of the scans in several orders, each gated by token and channel; see `MambaMixer`.

    Args:
        dim (int): Channels.
        d_state (int): Size N of a channel's state.
        directions (Sequence[str]): Of ``DIRECTIONS``.
        class_token (bool): Whether the middle one of the tokens is not of the map. It takes the
            same place, L // 2, in every order.
        published (bool): Vertical scans put back as in the authors' code, see ``local_unscan``.
    """

    def __init__(
        self, dim: int, d_state: int, directions: Sequence[str], class_token: bool, published: bool
    ) -> None:
        names = [
            DirectionNames(*(f'{name}_{k}' for name in DirectionNames._fields))
            for k in range(len(directions))
        ]
        super().__init__(dim, d_state, names)
        self.attn = ChannelGate(self.out_proj.in_features)
        self.directions = tuple(directions)
        self.class_token = class_token
        self.published = published
        for linear in (self.attn.global_reduce, self.attn.channel_select):
            nn.init.zeros_(linear.bias)

    def mix(self, x: Tensor, gate: Tensor, size: tuple[int, int]) -> Tensor:
        y = self.unscan(self.scan(self.sequences(x, size)), size)  # (N, G, L, E)
        gates = gate[:, None]
        if self.published:
            # The authors gate before they put tokens back, to places that are not always theirs.
            gates = self.unscan(self.sequences(gate, size), size)
        return self.attn(y.to(x.dtype) * gates).sum(1)

    def sequences(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        """Tokens (N, L, E) in each direction's order, (N, G, L', E)."""
        if not self.class_token:
            return local_scan(tokens.unflatten(1, size), self.directions)
        tokens, class_token = without_middle(tokens)
        middle = tokens.shape[1] // 2
        sequences = local_scan(tokens.unflatten(1, size), self.directions)
        class_token = class_token[:, None].expand(-1, len(self.directions), -1, -1)
        return torch.cat((sequences[:, :, :middle], class_token, sequences[:, :, middle:]), dim=2)

    def unscan(self, y: Tensor, size: tuple[int, int]) -> Tensor:
        """The way back from :meth:`sequences`: (N, G, L', E) to (N, G, L, E)."""
        if not self.class_token:
            return local_unscan(y, self.directions, *size, self.published).flatten(2, 3)
        middle = size[0] * size[1] // 2
        class_token = y[:, :, middle : middle + 1]
        y = torch.cat((y[:, :, :middle], y[:, :, middle + 1 :]), dim=2)
        y = local_unscan(y, self.directions, *size, self.published).flatten(2, 3)
        return torch.cat((y[:, :, :middle], class_token, y[:, :, middle:]), dim=2)


class RotaryEmbedding(nn.Module):
    """Angles that grow with a token's row and column, by which pairs of its channels are rotated.

    The first half of the channels turns with the row, the second with the column; frequencies are
    ``10000 ** (-2 j / d)`` with d half of the channels, positions are scaled to 14. For another
    grid the tables of cosines and sines are resized like a position embedding, as published.

    Args:
        dim (int): Channels, a multiple of 4.
        grid (tuple[int, int]): Height and width of the training images in patches.
    """

    def __init__(self, dim: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid = grid
        half = dim // 2
        frequencies = ROPE_BASE ** (-torch.arange(0, half, 2).float() / half)
        angles = [
            (torch.arange(side) / side * ROPE_SIDE)[:, None] * frequencies.repeat_interleave(2)
            for side in grid
        ]  # (h, half), (w, half)
        rows = angles[0][:, None].expand(*grid, -1)
        columns = angles[1][None].expand(*grid, -1)
        angle = torch.cat((rows, columns), dim=-1).flatten(0, 1)  # (L, dim)
        self.register_buffer('freqs_cos', angle.cos())
        self.register_buffer('freqs_sin', angle.sin())

    def tables(self, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Cosines and sines, (1, L, dim) each, for a map of that height and width."""
        return (
            resize_table(self.freqs_cos[None], size, self.grid),
            resize_table(self.freqs_sin[None], size, self.grid),
        )


class RotatedBlock(MambaBlock):
    """A block whose tokens (N, L, dim) are rotated first, by :meth:`RotaryEmbedding.tables`."""

    def forward(
        self, tokens: Tensor, size: tuple[int, int], cos: Tensor, sin: Tensor
    ) -> tuple[Tensor, Tensor]:
        even, odd = tokens.unflatten(-1, (-1, 2)).unbind(-1)
        quarter_turn = torch.stack((-odd, even), dim=-1).flatten(-2)
        return super().forward(tokens * cos + quarter_turn * sin, size)


def resolve_arch(arch: str | dict[str, Any]) -> dict[str, Any]:
    """All numbers of a variant, given its name or a dict of those that differ from the defaults.

    Raises:
        ValueError: If the name, a key or a direction is unknown, ``depths`` or ``dim`` is missing,
            or numbers do not fit together.
    """
    numbers = complete(look_up('LocalVim', arch, ARCHITECTURES), DEFAULTS, width='dim')
    if numbers['class_token'] and numbers['rope']:
        raise ValueError('class_token needs rope=False: a class token has no place to rotate by')
    if numbers['rope'] and numbers['dim'] % 4:
        raise ValueError(f'rope needs a dim that 4 divides, got {numbers["dim"]}')
    if EXPANSION * numbers['dim'] < 8:
        raise ValueError(f'dim must be at least 4 for the gate, got {numbers["dim"]}')
    directions = complete_directions(numbers['directions'], sum(numbers['depths']))
    return {**numbers, 'directions': directions}


@register_family
class LocalVim(PatchTokens):
    """LocalVim as a backbone for mmdet and mmseg, with a pyramid from stride 16 (arXiv 2403.09338).

    20 blocks on tokens of 16x16 pixels. Images of any size are padded with zeros to whole patches;
    position embeddings are resized to them (bicubic), as in the official code.

    Args:
        arch (str | dict): 'tiny', 'small', 'tiny_middle_cls_token', or a dict with ``depths``
            (blocks up to each of four taps) and ``dim`` and optionally ``directions`` (for each
            block the names of its orders; Defaults to h, h_flip, w2, w2_flip in all),
            ``d_state`` (16), ``patch_size`` (16), ``img_size`` (224; or height and width: of the
            images that the position embedding is for), ``class_token`` (False), ``rope``
            (rotary embedding of the stream before each block; True) and ``rms_norm`` (True; else
            LayerNorm in the blocks, as in the authors' detectors: weights of classifiers, which
            have no biases there, do not fit). Defaults to 'tiny'.
        scan (str): How columns ('v', 'v_flip') are put back after the scan. 'corrected' inverts the
            reading of them. 'published' is the authors' code: the same on square maps, on others it
            permutes nearly all positions. The parameters are the same. On square maps, as those
            that ImageNet weights were trained on, both are one network. Weights that the authors
            trained on COCO need 'published'; new training, also from ImageNet weights, should use
            'corrected'. Defaults to 'corrected'.
        pyramid, features: See :class:`PlainBackbone`. The authors' detectors use 'last', their
            segmentors the four maps without a pyramid, both of features 'mixer'. Default to 'taps'
            and 'mixer'.
        drop_path_rate (float): Stochastic depth, rising linearly from 0 at the first block to this
            at the last. Defaults to 0.0.
        out_indices, output_norm, frozen_stages, with_cp, init_cfg, channels_last: See
            :class:`PlainBackbone`.

    Raises:
        ValueError: If ``arch`` or ``scan`` is unknown or one of the numbers does not fit.

    Example:
        >>> import torch
        >>> from mambaout_mm import LocalVim
        >>> backbone = LocalVim('tiny')
        >>> [tuple(out.shape) for out in backbone(torch.rand(1, 3, 64, 96))]
        [(1, 192, 16, 24), (1, 192, 8, 12), (1, 192, 4, 6), (1, 192, 2, 3)]
    """

    variants = {arch: resolve_arch(arch) for arch in ARCHITECTURES}
    mark = '.mixer.A_log_0'
    weights = {
        f'localvim://{arch}': WEIGHTS.format(f'local_vim_{arch}')
        for arch in ('tiny', 'tiny_middle_cls_token')
    }
    unpublished_weights = {'localvim://small': "its authors' link leads to LocalVMamba-S"}
    networks = tuple(
        Network(
            name,
            'Conv+SSM',
            dict(type='mambaout_mm.LocalVim', arch=arch),
            name,
            presets=presets,
            other_heads='published with UperNet on four maps at stride 16',
        )
        for name, arch, presets in (
            ('LocalVim-T', 'tiny', ()),
            ('LocalVim-S', 'small', ('mambas',)),
        )
    )
    papers = {
        'LocalVim': Paper(
            'https://arxiv.org/abs/2403.09338',
            'LocalMamba: Visual State Space Model with Windowed Selective Scan',
            'Mamba block with windowed scans',
        )
    }
    recipes = {
        'LocalVim': dict(
            segmentation='FP32, 8 x 2 images, lr 6e-5, UperNet on four maps at stride 16'
        )
    }

    def __init__(
        self,
        arch: str | dict[str, Any] = 'tiny',
        scan: str = 'corrected',
        pyramid: str | None = 'taps',
        features: str = 'mixer',
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
        dim = numbers['dim']

        def block(j: int, rate: float) -> MambaBlock:
            mixer = LocalMixer(
                dim,
                numbers['d_state'],
                numbers['directions'][j],
                numbers['class_token'],
                published,
            )
            norm = RMSNorm if numbers['rms_norm'] else nn.LayerNorm
            kind = RotatedBlock if numbers['rope'] else MambaBlock
            return kind(norm(dim, eps=NORM_EPS), mixer, rate)

        super().__init__(
            numbers,
            numbers['class_token'],
            drop_path_rate,
            block,
            pyramid=pyramid,
            features=features,
            out_indices=out_indices,
            output_norm=output_norm,
            frozen_stages=frozen_stages,
            with_cp=with_cp,
            init_cfg=init_cfg,
            channels_last=channels_last,
        )
        self.rope = RotaryEmbedding(dim, self.grid) if numbers['rope'] else None
        self.freeze_stages()

    def for_blocks(self, size: tuple[int, int]) -> tuple[Tensor, ...]:
        return () if self.rope is None else self.rope.tables(size)

    def convert_checkpoint(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        # The authors' networks have no output norm for what a classifier's final norm is for.
        backbone = {n: x for n, x in state_dict.items() if not n.startswith('norm_f.')}
        return super().convert_checkpoint(backbone)
