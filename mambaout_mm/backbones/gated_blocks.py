"""Gated blocks, which differ in what mixes tokens: MambaOut's block and those that it is tested by.

Paper: arXiv 2405.07992, figure 1: a Mamba block is a Gated CNN block plus an SSM. Each block here
is ``x + fc2(act(g) * cat(i, mix(c)))`` with ``g, i, c = split(fc1(norm(x)))``, and has its own
``mix``:

==============  ==================================================================================
``conv``        conv(c), a depthwise convolution: MambaOut's Gated CNN block
``identity``    c: no token mixing
``ssm``         SSM(act(conv(c))): the Mamba block of the paper's section 3
``conv+ssm``    conv(c) + gamma * SSM(act(conv(c))), with gamma zero at the start
``attention``   softmax attention over all tokens of the map
==============  ==================================================================================
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from timm.layers import DropPath, LayerScale
from torch import Tensor, nn

from mambaout_mm.errors import near_names
from mambaout_mm.ops.gated_cnn import gated_cnn
from mambaout_mm.ops.gated_cnn.parameters import Parameters
from mambaout_mm.ops.modes import exporting
from mambaout_mm.ops.torch_versions import GELU, has_any_global_hook

from .map_mixers import MapAttention, MapSSM

LN_EPS = 1e-6
ACTIVATIONS = {'gelu': GELU, 'silu': nn.SiLU}


def layer_norm(dim: int) -> nn.LayerNorm:
    """LayerNorm over the last dimension with the official epsilon."""
    return nn.LayerNorm(dim, eps=LN_EPS)


class GatedBlock(nn.Module):
    """``x + fc2(act(g) * cat(i, mix(c)))`` with ``g, i, c = split(fc1(norm(x)))``.

    Maps (N, H, W, dim) to the same shape. A subclass has the token mixer.

    Args:
        dim (int): Channels.
        expansion_ratio (float): Hidden channels h = int(expansion_ratio * dim); fc1 gives 2h.
        conv_ratio (float): The last int(conv_ratio * dim) channels of fc1's output pass the token
            mixer.
        kernel_size (int): Of the depthwise convolution, where the mixer has one.
        activation (str): Of the gate, 'gelu' or 'silu'.
        layer_scale (float, optional): Initial LayerScale, or None for no LayerScale.
        drop_path (float): Stochastic-depth rate.
        **options: Of the token mixer.
    """

    options: tuple[str, ...] = ()  # that its token mixer takes in a config

    def __init__(
        self,
        dim: int,
        expansion_ratio: float,
        conv_ratio: float,
        kernel_size: int,
        activation: str,
        layer_scale: float | None,
        drop_path: float,
        **options: Any,
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
        self.norm = layer_norm(dim)
        self.fc1 = nn.Linear(dim, 2 * hidden)
        self.act = ACTIVATIONS[activation]()
        self.build_mixer(conv_dim, kernel_size, **options)
        self.fc2 = nn.Linear(hidden, dim)
        self.ls = nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def build_mixer(self, channels: int, kernel_size: int) -> None:
        """Make the token mixer's modules."""
        raise NotImplementedError

    def mix(self, c: Tensor) -> Tensor:
        """Mix the tokens of a map (N, H, W, Cc); gives the same shape."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop_path(self.ls(self.branch(x)))

    def branch(self, x: Tensor) -> Tensor:
        """What the block adds to ``x``, but for LayerScale and stochastic depth."""
        g, i, c = self.fc1(self.norm(x)).split(self.split, dim=-1)  # (N, H, W, h | h - Cc | Cc)
        return self.fc2(self.act(g) * torch.cat((i, self.mix(c)), dim=-1))  # (N, H, W, dim)


class IdentityBlock(GatedBlock):
    """A gated block without token mixing: the stem and the downsampling mix alone."""

    def build_mixer(self, channels: int, kernel_size: int) -> None:
        pass

    def mix(self, c: Tensor) -> Tensor:
        return c


class ConvolvedBlock(GatedBlock):
    """What the blocks with a depthwise convolution share."""

    def build_mixer(self, channels: int, kernel_size: int) -> None:
        self.conv = nn.Conv2d(
            channels, channels, kernel_size, padding=kernel_size // 2, groups=channels
        )

    def convolve(self, c: Tensor) -> Tensor:
        return self.conv(c.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class GatedCNNBlock(ConvolvedBlock):
    """The block of MambaOut, whose token mixer is a depthwise convolution.

    Paper, section 4.1 and algorithm 1. The branch is one operator,
    :func:`mambaout_mm.ops.gated_cnn.gated_cnn`. Its modules are called one by one where one has
    been replaced (by an adapter or a quantised one, say), changed or given hooks, has a parameter
    that is no plain ``nn.Parameter`` of its shape, or hooks for all modules are set.

    Args:
        fused (bool): Whether to use the operator where it can be used. Defaults to True.
    """

    def build_mixer(self, channels: int, kernel_size: int, fused: bool = True) -> None:
        super().build_mixer(channels, kernel_size)
        self.fused = fused
        dim, hidden = self.norm.normalized_shape[0], self.split[0]
        self.shapes = Parameters.shapes(dim, hidden, channels, kernel_size)

    def mix(self, c: Tensor) -> Tensor:
        return self.convolve(c)

    def branch(self, x: Tensor) -> Tensor:
        # Exports and counts of operations go by modules: readers look for the modules' names.
        parameters = self._plain_parameters() if self.fused and not exporting() else None
        if parameters is None:
            return super().branch(x)
        return gated_cnn(x, *parameters, self.activation, self.norm.eps)

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
            and not has_any_global_hook()
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


class SSMBlock(ConvolvedBlock):
    """The Mamba block of the paper's section 3 in MambaOut's body: ``SSM(act(conv(c)))``.

    The convolution is MambaOut's, so that the SSM and the activation before it are all that
    differs; it sees ``kernel_size // 2`` tokens ahead also where the scan is causal.

    Args:
        **options: Of :class:`MapSSM`.
    """

    options = ('directions', 'd_state', 'dt_rank')

    def build_mixer(self, channels: int, kernel_size: int, **options: Any) -> None:
        super().build_mixer(channels, kernel_size)
        self.ssm = MapSSM(channels, **options)

    def mix(self, c: Tensor) -> Tensor:
        return self.ssm(self.act(self.convolve(c)))


class ConvSSMBlock(SSMBlock):
    """A Gated CNN block with an SSM beside it: ``conv(c) + gamma * SSM(act(conv(c)))``.

    ``gamma``, one number for each channel, is zero at the start, so that it starts as MambaOut's
    block with the same weights.
    """

    def build_mixer(self, channels: int, kernel_size: int, **options: Any) -> None:
        super().build_mixer(channels, kernel_size, **options)
        self.ssm.gamma = nn.Parameter(torch.zeros(channels))

    def mix(self, c: Tensor) -> Tensor:
        c = self.convolve(c)
        return c + self.ssm.gamma.to(c.dtype) * self.ssm(self.act(c))


class AttentionBlock(GatedBlock):
    """A gated block with attention in place of the convolution: the quadratic control.

    Args:
        **options: Of :class:`MapAttention`.
    """

    options = ('causal',)

    def build_mixer(self, channels: int, kernel_size: int, **options: Any) -> None:
        self.attention = MapAttention(channels, **options)

    def mix(self, c: Tensor) -> Tensor:
        return self.attention(c)


BLOCKS: dict[str, type[GatedBlock]] = {
    'conv': GatedCNNBlock,
    'identity': IdentityBlock,
    'ssm': SSMBlock,
    'conv+ssm': ConvSSMBlock,
    'attention': AttentionBlock,
}


# Names for the mixers and options that a comparison of mixers asks for.
MIXERS: dict[str, dict[str, Any]] = {
    'conv': dict(type='conv'),
    'identity': dict(type='identity'),
    'ssm': dict(type='ssm', directions='cross'),
    'ssm-bidirectional': dict(type='ssm', directions='bidirectional'),
    'ssm-causal': dict(type='ssm', directions='causal'),
    'conv+ssm': dict(type='conv+ssm', directions='cross'),
    'attention': dict(type='attention', causal=False),
    'attention-causal': dict(type='attention', causal=True),
}


def in_stages(mixer: str, stages: Sequence[int]) -> list[dict[str, Any]]:
    """One of ``MIXERS`` for each of some stages, numbered from 1; convolutions for the others."""
    return [MIXERS[mixer if stage in stages else 'conv'] for stage in (1, 2, 3, 4)]


def resolve_mixers(
    mixer: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]],
) -> tuple[dict[str, Any], ...]:
    """The token mixer of each of four stages, as a dict of ``type`` and options.

    Args:
        mixer (str | Mapping | Sequence): One of ``MIXERS``, or a dict of ``type`` and options; or
            four of these.

    Raises:
        ValueError: If a name or an option is unknown, or there are not four.
    """
    mixers = (mixer,) * 4 if isinstance(mixer, str | Mapping) else tuple(mixer)
    if len(mixers) != 4:
        raise ValueError(f'mixer must be one for all stages or four, got {len(mixers)}: {mixer!r}')
    for name in mixers:
        if isinstance(name, str) and name not in MIXERS:
            raise ValueError(f'unknown token mixer {name!r}; {near_names(name, list(MIXERS))}')
    resolved = tuple(dict(MIXERS[x] if isinstance(x, str) else x) for x in mixers)
    for options in resolved:
        name = options.get('type')
        if name not in BLOCKS:
            raise ValueError(
                f'unknown type {name!r} of token mixer; {near_names(str(name), list(BLOCKS))}'
            )
        known = BLOCKS[name].options
        for option in options.keys() - {'type', *known}:
            hint = near_names(option, list(known)) if known else 'it has none'
            raise ValueError(f'unknown option {option!r} of the token mixer {name!r}; {hint}')
    return resolved
