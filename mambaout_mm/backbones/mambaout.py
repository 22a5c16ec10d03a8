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
from timm.layers import DropPath, LayerScale, trunc_normal_
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from mambaout_mm.checkpoints import UnknownLayoutError
from mambaout_mm.ops.gated_cnn import gated_cnn
from mambaout_mm.ops.gated_cnn.parameters import Parameters
from mambaout_mm.ops.modes import exporting
from mambaout_mm.registry import register_family

from .arch import complete, look_up
from .base import Network, Paper, PyramidBackbone, Stage, drop_path_rates

LN_EPS = 1e-6
ACTIVATIONS = {'gelu': nn.GELU, 'silu': nn.SiLU}

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


def layer_norm(dim: int) -> nn.LayerNorm:
    """LayerNorm over the last dimension with the official epsilon."""
    return nn.LayerNorm(dim, eps=LN_EPS)


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


class GatedCNNBlock(nn.Module):
    """``x + fc2(act(g) * cat(i, dwconv(c)))`` with ``g, i, c = split(fc1(norm(x)))``.

    Paper, section 4.1 and algorithm 1. Maps (N, H, W, dim) to the same shape. The branch is one
    operator, :func:`mambaout_mm.ops.gated_cnn.gated_cnn`. Its modules are called one by one where
    one has been replaced (by an adapter or a quantised one, say), changed or given hooks, has a
    parameter that is no plain ``nn.Parameter`` of its shape, or hooks for all modules are set.

    Args:
        dim (int): Channels.
        expansion_ratio (float): Hidden channels h = int(expansion_ratio * dim); fc1 gives 2h.
        conv_ratio (float): The last int(conv_ratio * dim) channels of fc1's output pass the
            depthwise convolution.
        kernel_size (int): Of the depthwise convolution.
        activation (str): Of the gate, 'gelu' or 'silu'.
        layer_scale (float, optional): Initial LayerScale, or None for no LayerScale.
        drop_path (float): Stochastic-depth rate.
        fused (bool): Whether to use the operator where it can be used. Defaults to True.
    """

    def __init__(
        self,
        dim: int,
        expansion_ratio: float,
        conv_ratio: float,
        kernel_size: int,
        activation: str,
        layer_scale: float | None,
        drop_path: float,
        fused: bool = True,
    ) -> None:
        super().__init__()
        hidden = int(expansion_ratio * dim)
        conv_dim = int(conv_ratio * dim)
        if not 1 <= conv_dim <= hidden:
            raise ValueError(
                f'conv_ratio {conv_ratio} gives {conv_dim} convolved channels of {hidden} hidden '
                f'ones at width {dim}; it must be above 0 and at most expansion_ratio '
                f'({expansion_ratio})'
            )
        self.split = (hidden, hidden - conv_dim, conv_dim)
        self.activation = activation
        self.fused = fused
        self.shapes = Parameters.shapes(dim, hidden, conv_dim, kernel_size)
        self.norm = layer_norm(dim)
        self.fc1 = nn.Linear(dim, 2 * hidden)
        self.act = ACTIVATIONS[activation]()
        self.conv = nn.Conv2d(
            conv_dim, conv_dim, kernel_size, padding=kernel_size // 2, groups=conv_dim
        )
        self.fc2 = nn.Linear(hidden, dim)
        self.ls = nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        # Exports and counts of operations go by modules: readers look for the modules' names.
        parameters = self._plain_parameters() if self.fused and not exporting() else None
        if parameters is None:
            y = self._call_modules(x)
        else:
            y = gated_cnn(x, *parameters, self.activation, self.norm.eps)
        return x + self.drop_path(self.ls(y))

    def _call_modules(self, x: Tensor) -> Tensor:
        g, i, c = self.fc1(self.norm(x)).split(self.split, dim=-1)  # (N, H, W, h | h - Cc | Cc)
        c = self.conv(c.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # (N, H, W, Cc)
        return self.fc2(self.act(g) * torch.cat((i, c), dim=-1))  # (N, H, W, dim)

    def _plain_parameters(self) -> tuple[nn.Parameter, ...] | None:
        """The parameters if calling the modules would compute exactly what the operator computes.

        None if a module is not as it was built, or if a parameter is of a subclass (quantised, for
        example), is replaced (by ``torch.func.functional_call``), or has another shape (that of a
        dense convolution, for example).
        """
        # ``_modules`` and ``_parameters`` directly: attribute access to a module or a parameter
        # takes ten times as long, and every block would pay for it.
        modules = self._modules
        norm, fc1, act, conv, fc2 = (
            modules[name] for name in ('norm', 'fc1', 'act', 'conv', 'fc2')
        )
        if not (
            _is_plain(norm, nn.LayerNorm)
            and _is_plain(fc1, nn.Linear)
            and _is_plain(act, ACTIVATIONS[self.activation])
            and _is_plain(conv, nn.Conv2d)
            and _is_plain(fc2, nn.Linear)
            and getattr(act, 'approximate', 'none') == 'none'
            and conv.groups == self.split[2]
            and conv.padding_mode == 'zeros'
            and conv.padding == (conv.kernel_size[0] // 2,) * 2
            and conv.stride == conv.dilation == (1, 1)
            and not _has_any_global_hook()
        ):
            return None
        parameters = tuple(
            part._parameters.get(name)
            for part in (norm, fc1, conv, fc2)
            for name in ('weight', 'bias')
        )
        for parameter, shape in zip(parameters, self.shapes, strict=True):
            if type(parameter) is not nn.Parameter or parameter.shape != shape:
                return None
        return parameters


def _is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a module is of that very type, with that type's forward and no hooks."""
    return (
        type(module) is kind
        and 'forward' not in module.__dict__
        and not module._forward_hooks
        and not module._forward_pre_hooks
        and not module._backward_hooks
        and not module._backward_pre_hooks
    )


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
        drop_path_rate (float): Stochastic depth, rising linearly from 0 at the first block to this
            at the last. Defaults to 0.0.
        out_indices, output_norm, frozen_stages, with_cp, init_cfg, channels_last: See
            :class:`PyramidBackbone`.
        fused (bool): Run the branch of each block as one operator, which is faster and keeps less
            for the backward pass, where all of its modules are as built; False calls the modules
            one by one always. Parameters are the same. Defaults to True.

    Raises:
        ValueError: If ``arch`` is unknown or one of its numbers does not fit.

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
                ('T', 'tiny', ('tiny', 'mambas')),
                ('S', 'small', ('small',)),
                ('B', 'base', ('base',)),
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
                ('T', 'tiny', ('tiny', 'mambas')),
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
    global_modules = ()

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
        activation = ACTIVATIONS[numbers['activation']]
        norm_first = numbers['downsample_norm_first']
        self.downsample_layers = nn.ModuleList([Stem(dims[0], numbers['stem_norm'], activation)])
        for i in range(1, self.num_stages):
            self.downsample_layers.append(Downsample(dims[i - 1], dims[i], norm_first))

        rates = drop_path_rates(drop_path_rate, depths)
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(
                    GatedCNNBlock(
                        dims[i],
                        numbers['expansion_ratio'],
                        numbers['conv_ratio'],
                        numbers['kernel_size'],
                        numbers['activation'],
                        numbers['layer_scale'],
                        rate,
                        fused,
                    )
                    for rate in rates[i]
                )
            )
            for i in range(self.num_stages)
        )
        self.apply(_init_module)
        self.freeze_stages()

    def stage(self, i: int) -> Stage:
        return Stage([self.downsample_layers[i]], self.stages[i])

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
