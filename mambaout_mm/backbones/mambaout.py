"""MambaOut: Gated CNN blocks, which are Mamba blocks without the SSM.

Paper: arXiv 2405.07992, section 4.1. Parameter names are those of the official code
(yuweihao/MambaOut ``models/mambaout.py`` at 9f2f234), so that its files load as they are. The
``*_rw`` variants are timm's (``timm/models/mambaout.py``, timm 1.0.31).

Weights: github.com/yuweihao/MambaOut, release ``model``, Apache-2.0; those of the ``*_rw``
variants are timm's.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from timm.layers import trunc_normal_
from torch import Tensor, nn

from mambaout_mm.checkpoints import UnknownLayoutError
from mambaout_mm.registry import register_family

from .arch import complete, look_up
from .base import Network, Paper, PyramidBackbone, Stage, drop_path_rates
from .gated_blocks import (
    ACTIVATIONS,
    BLOCKS,
    LN_EPS,
    GatedCNNBlock,
    layer_norm,
    resolve_mixers,
)
from .map_mixers import MapAttention, MapSSM

# How timm's own variants differ: no norm between the stem's convolutions, LayerNorm before
# the downsampling convolution, LayerScale.
_RW = dict(stem_norm=False, downsample_norm_first=True, layer_scale=1e-6)

ARCHITECTURES: dict[str, dict[str, Any]] = {
    # The paper's four and kobe, as in the official models/mambaout.py.
    'femto': dict(depths=(3, 3, 9, 3), dims=(48, 96, 192, 288)),
    'kobe': dict(depths=(3, 3, 15, 3), dims=(48, 96, 192, 288)),
    'tiny': dict(depths=(3, 3, 9, 3), dims=(96, 192, 384, 576)),
    'small': dict(depths=(3, 4, 27, 3), dims=(96, 192, 384, 576)),
    'base': dict(depths=(3, 4, 27, 3), dims=(128, 256, 512, 768)),
    'small_rw': dict(depths=(3, 4, 27, 3), dims=(96, 192, 384, 576), **_RW),
    'base_short_rw': dict(
        depths=(3, 3, 25, 3),
        dims=(128, 256, 512, 768),
        expansion_ratio=3.0,
        conv_ratio=1.25,
        **_RW,
    ),
    'base_tall_rw': dict(
        depths=(3, 4, 30, 3),
        dims=(128, 256, 512, 768),
        expansion_ratio=2.5,
        conv_ratio=1.25,
        **_RW,
    ),
    'base_wide_rw': dict(
        depths=(3, 4, 27, 3),
        dims=(128, 256, 512, 768),
        expansion_ratio=3.0,
        conv_ratio=1.5,
        activation='silu',
        **_RW,
    ),
    'base_plus_rw': dict(
        depths=(3, 4, 30, 3),
        dims=(128, 256, 512, 768),
        expansion_ratio=3.0,
        conv_ratio=1.5,
        activation='silu',
        **_RW,
    ),
}

ARCHITECTURE_DEFAULTS: dict[str, Any] = dict(
    expansion_ratio=8 / 3,
    conv_ratio=1.0,
    kernel_size=7,
    activation='gelu',
    stem_norm=True,
    downsample_norm_first=False,
    layer_scale=None,
)


# What the blocks of all stages share.
BLOCK_NUMBERS = ('expansion_ratio', 'conv_ratio', 'kernel_size', 'activation', 'layer_scale')

WEIGHTS = 'https://github.com/yuweihao/MambaOut/releases/download/model/mambaout_{}.pth'

# The official layout is the one here. timm's differs by this table; its ``features_only`` models
# write ``stages_0`` for ``stages.0``.
OFFICIAL_STEM = 'downsample_layers.0.conv1.weight'
TIMM_STEM = 'stem.conv1.weight'
FROM_TIMM = (
    (re.compile(r'^stages_(\d+)\.'), r'stages.\1.'),
    (re.compile(r'^stem\.'), 'downsample_layers.0.'),
    (re.compile(r'^stages\.(\d+)\.downsample\.'), r'downsample_layers.\1.'),
    (re.compile(r'^stages\.(\d+)\.blocks\.(\d+)\.'), r'stages.\1.\2.'),
)


class Stem(nn.Module):
    """Two stride-2 convolutions: (N, 3, H, W) to (N, ceil(H/4), ceil(W/4), dim)."""

    def __init__(self, dim: int, norm: bool, activation: type[nn.Module]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, dim // 2, 3, stride=2, padding=1)
        self.norm1 = layer_norm(dim // 2) if norm else None
        self.act = activation()
        self.conv2 = nn.Conv2d(dim // 2, dim, 3, stride=2, padding=1)
        self.norm2 = layer_norm(dim)

    def forward(self, x: Tensor) -> Tensor:
        # So that no convolution and no norm between here and the neck copies its input.
        x = x.contiguous(memory_format=torch.channels_last)
        x = self.conv1(x)  # (N, dim/2, H/2, W/2)
        if self.norm1 is not None:
            x = self.norm1(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        x = self.conv2(self.act(x))  # (N, dim, H/4, W/4)
        return self.norm2(x.permute(0, 2, 3, 1))  # (N, H/4, W/4, dim)


class Downsample(nn.Module):
    """One stride-2 convolution: (N, H, W, in_dim) to (N, ceil(H/2), ceil(W/2), out_dim)."""

    def __init__(self, in_dim: int, out_dim: int, norm_first: bool) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.conv = nn.Conv2d(in_dim, out_dim, 3, stride=2, padding=1)
        self.norm = layer_norm(in_dim if norm_first else out_dim)

    def forward(self, x: Tensor) -> Tensor:
        if self.norm_first:
            x = self.norm(x)
        x = self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # (N, H/2, W/2, out_dim)
        return x if self.norm_first else self.norm(x)


def _tiny_twin(expansion_ratio: float) -> dict[str, Any]:
    """MambaOut-T with the ratio at which another token mixer costs the same.

    Ratios are those of :func:`mambaout_mm.measure.twins.matched_twin` at 800x1280, for attention at
    512x512, whose cost grows otherwise.
    """
    return dict(ARCHITECTURES['tiny'], expansion_ratio=expansion_ratio)


@register_family
class MambaOut(PyramidBackbone):
    """MambaOut as a four-stage backbone for mmdet and mmseg (arXiv 2405.07992).

    Args:
        arch (str | dict): A published variant, one of ``femto``, ``kobe``, ``tiny``, ``small``,
            ``base`` (the paper's) and ``small_rw``, ``base_short_rw``, ``base_tall_rw``,
            ``base_wide_rw``, ``base_plus_rw`` (timm's); or a dict with ``depths`` and ``dims``
            (four integers each) and optionally ``expansion_ratio`` (8/3), ``conv_ratio`` (1.0),
            ``kernel_size`` (7), ``activation`` ('gelu' or 'silu'), ``stem_norm`` (True),
            ``downsample_norm_first`` (False), ``layer_scale`` (None). Defaults to 'tiny'.
        mixer (str | dict | Sequence): What mixes tokens in the blocks, see :mod:`.gated_blocks`:
            'conv' (MambaOut), 'identity', 'ssm' (also 'ssm-bidirectional' and 'ssm-causal'),
            'conv+ssm', 'attention' or 'attention-causal'; or a dict of ``type`` and the options of
            :class:`.map_mixers.MapSSM` (``directions``, ``d_state``, ``dt_rank``) or
            :class:`.map_mixers.MapAttention` (``causal``); or four of these, one for each stage.
            'conv+ssm' starts from published weights of MambaOut, with its SSM fresh and without
            effect; the other mixers have no published weights. Defaults to 'conv'.
        drop_path_rate (float): Stochastic depth, rising linearly from 0 at the first block to this
            at the last. Defaults to 0.0.
        out_indices, output_norm, frozen_stages, with_cp, init_cfg, channels_last: See
            :class:`PyramidBackbone`.
        fused (bool): Run the branch of each Gated CNN block as one operator, which is faster and
            keeps less for the backward pass, where all of its modules are as built; False calls the
            modules one by one always. Parameters are the same. Defaults to True.

    Raises:
        ValueError: If ``arch`` or ``mixer`` is unknown or one of its numbers does not fit.

    Example:
        >>> import torch
        >>> from mambaout_mm import MambaOut
        >>> backbone = MambaOut('femto')
        >>> [tuple(out.shape) for out in backbone(torch.rand(1, 3, 64, 96))]
        [(1, 48, 16, 24), (1, 96, 8, 12), (1, 192, 4, 6), (1, 288, 2, 3)]
    """

    weights = {
        f'mambaout://{arch}': WEIGHTS.format(arch)
        for arch in ('femto', 'kobe', 'tiny', 'small', 'base')
    }
    mirrored_weights = {
        name: f'timm://mambaout_{name.partition("://")[2]}.in1k' for name in weights
    }
    unpublished_weights = {
        f'mambaout://{arch}': f"this variant is timm's; its weights are timm://mambaout_{arch}"
        for arch in ARCHITECTURES
        if arch.endswith('_rw')
    }
    networks = (
        *(
            Network(
                f'MambaOut-{scale}',
                'Conv',
                dict(type='mambaout_mm.MambaOut', arch=arch),
                f'MambaOut-{arch.capitalize()}',
                presets=presets,
            )
            for scale, arch, presets in (
                ('Femto', 'femto', ()),
                ('Kobe', 'kobe', ()),
                ('T', 'tiny', ('tiny', 'mambas', 'mixers')),
                ('S', 'small', ('small',)),
                ('B', 'base', ('base',)),
            )
        ),
        # Its body with other token mixers, which nobody published.
        *(
            Network(
                f'MambaOut-T {name}',
                tokens,
                dict(type='mambaout_mm.MambaOut', arch=arch, mixer=mixer),
                presets=('mixers',),
            )
            for name, tokens, arch, mixer in (
                ('identity', '', _tiny_twin(2.7416), 'identity'),
                ('ssm', 'Conv+SSM', _tiny_twin(2.4298), 'ssm'),
                ('ssm 3-4', 'Conv+SSM', _tiny_twin(2.5346), ('conv', 'conv', 'ssm', 'ssm')),
                ('conv+ssm', 'Conv+SSM', 'tiny', 'conv+ssm'),
                ('conv+ssm 3-4', 'Conv+SSM', 'tiny', ('conv', 'conv', 'conv+ssm', 'conv+ssm')),
                (
                    'attention 3-4',
                    'Conv+Attn',
                    _tiny_twin(1.0633),
                    ('conv', 'conv', 'attention', 'attention'),
                ),
            )
        ),
        # timm's own MambaOut: the stock network that the optimised one stands beside.
        *(
            Network(
                f'MambaOut-{scale} (timm)',
                'Conv',
                dict(type='mambaout_mm.TimmPyramid', model_name=f'mambaout_{arch}'),
                presets=presets,
            )
            for scale, arch, presets in (
                ('T', 'tiny', ('tiny', 'mambas', 'mixers')),
                ('S', 'small', ('small',)),
                ('B', 'base', ('base',)),
            )
        ),
    )
    papers = {
        'MambaOut': Paper(
            'https://arxiv.org/abs/2405.07992',
            'MambaOut: Do We Really Need Mamba for Vision?',
            'Gated CNN block',
        )
    }
    recipes = {
        'MambaOut': dict(
            detection='mixed precision, 4 x 4 images',
            segmentation='mixed precision, 4 x 4 images, lr 1e-4',
        )
    }
    global_modules = (MapSSM, MapAttention)

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
        fused: bool = True,
        mixer: str | dict[str, Any] | Sequence[str | dict[str, Any]] = 'conv',
    ) -> None:
        numbers = resolve_arch(arch)
        mixers = resolve_mixers(mixer)
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
        activation = ACTIVATIONS[numbers['activation']]
        norm_first = numbers['downsample_norm_first']
        self.downsample_layers = nn.ModuleList([Stem(dims[0], numbers['stem_norm'], activation)])
        for i in range(1, self.num_stages):
            self.downsample_layers.append(Downsample(dims[i - 1], dims[i], norm_first))

        rates = drop_path_rates(drop_path_rate, depths)
        self.mixers = mixers
        self.stages = nn.ModuleList()
        for i in range(self.num_stages):
            options = dict(mixers[i])
            block = BLOCKS[options.pop('type')]
            if block is GatedCNNBlock:
                options['fused'] = fused
            shared = options | {name: numbers[name] for name in BLOCK_NUMBERS}
            blocks = [block(dims[i], drop_path=rate, **shared) for rate in rates[i]]
            self.stages.append(nn.Sequential(*blocks))
        self.apply(_init_module)
        self.freeze_stages()

    def stage(self, i: int) -> Stage:
        return Stage([self.downsample_layers[i]], self.stages[i])

    def fresh_part(self, name: str) -> str | None:
        # An SSM that changes nothing at the start
        found = re.match(r'stages\.(\d)\.\d+\.ssm(?=\.)', name)
        if found and self.mixers[int(found[1])]['type'] == 'conv+ssm':
            return found[0]
        return super().fresh_part(name)

    def convert_checkpoint(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Official names for an official or a timm state dict, without the classifier.

        ``head.norm`` exists in both layouts with different meanings, so the stem tells them apart.
        The classifier (``norm.*``, ``head.*``; the norm acts on pooled features) is left out.

        Raises:
            UnknownLayoutError: If neither layout's stem is there.
        """
        if OFFICIAL_STEM in state_dict:
            renames: tuple = ()
        elif TIMM_STEM in state_dict:
            renames = FROM_TIMM
        else:
            raise UnknownLayoutError(
                f'no MambaOut backbone in it: neither {OFFICIAL_STEM} (official) nor {TIMM_STEM} '
                f'(timm) is among its {len(state_dict)} keys '
                f'({", ".join(list(state_dict)[:4])}, ...)'
            )
        official = {}
        for name, tensor in state_dict.items():
            if name.startswith(('norm.', 'head.')):
                continue
            for pattern, replacement in renames:
                name = pattern.sub(replacement, name)
            official[name] = tensor
        return official

    def describe_checkpoint(self, state_dict: dict[str, Tensor]) -> str:
        found = measure(state_dict)
        names = [
            name
            for name, numbers in ARCHITECTURES.items()
            if all(found[key] == value for key, value in _measurable(numbers).items())
        ]
        numbers = f'depths {found["depths"]}, dims {found["dims"]}'
        return f'MambaOut {" or ".join(names)} ({numbers})' if names else f'a MambaOut of {numbers}'


def measure(state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    """The architecture's numbers that the shapes of an official state dict show.

    Returns:
        dict[str, Any]: ``depths`` and ``dims`` (tuples, one entry for each stage in the file),
        ``hidden`` and ``conv_dim`` of the first block (None where the file lacks it), and
        ``stem_norm``.
    """
    blocks = {
        m.groups() for m in map(re.compile(r'^stages\.(\d+)\.(\d+)\.').match, state_dict) if m
    }
    stages = sorted({int(stage) for stage, _ in blocks})
    fc2 = {i: state_dict.get(f'stages.{i}.0.fc2.weight') for i in stages}  # (C, h)
    conv = state_dict.get('stages.0.0.conv.weight')  # (Cc, 1, k, k)
    return dict(
        depths=tuple(sum(int(stage) == i for stage, _ in blocks) for i in stages),
        dims=tuple(0 if fc2[i] is None else fc2[i].shape[0] for i in stages),
        hidden=None if fc2.get(0) is None else fc2[0].shape[1],
        conv_dim=None if conv is None else conv.shape[0],
        stem_norm='downsample_layers.0.norm1.weight' in state_dict,
    )


def resolve_arch(arch: str | dict[str, Any]) -> dict[str, Any]:
    """All numbers of a variant, given its name or a dict of those that differ from the defaults.

    Raises:
        ValueError: If the name or a key is unknown, ``depths`` or ``dims`` is missing, or a number
            is out of range.
    """
    numbers = complete(look_up('MambaOut', arch, ARCHITECTURES), ARCHITECTURE_DEFAULTS)
    if numbers['activation'] not in ACTIVATIONS:
        raise ValueError(
            f'activation must be one of {", ".join(ACTIVATIONS)}, got {numbers["activation"]!r}'
        )
    if numbers['kernel_size'] % 2 == 0:
        raise ValueError(f'kernel_size must be odd, got {numbers["kernel_size"]}')
    return numbers


def _measurable(numbers: dict[str, Any]) -> dict[str, Any]:
    """The part of a variant's numbers that its tensors' shapes show."""
    full = {**ARCHITECTURE_DEFAULTS, **numbers}
    dim = full['dims'][0]
    return dict(
        depths=full['depths'],
        dims=full['dims'],
        hidden=int(full['expansion_ratio'] * dim),
        conv_dim=int(full['conv_ratio'] * dim),
        stem_norm=full['stem_norm'],
    )


def _init_module(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
