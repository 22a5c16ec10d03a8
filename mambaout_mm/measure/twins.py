"""Networks that differ in their token mixer and cost the same.

A token mixer brings parameters and multiply-accumulates of its own. A comparison of mixers in one
body would buy its difference with arithmetic, so the blocks' hidden width pays for the mixer.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from mambaout_mm.backbones.mambaout import MambaOut, resolve_arch
from mambaout_mm.errors import UserError

from .complexity import count_macs

TOLERANCE = 0.01  # of the multiply-accumulates
SIZE = (512, 512)


class Twin(NamedTuple):
    """A backbone that costs what MambaOut of the same variant costs.

    Attributes:
        expansion_ratio (float): Of its blocks.
        macs, plain_macs (int): Multiply-accumulates of one image, of it and of MambaOut, by the
            rule of :mod:`.complexity`.
        params, plain_params (int): Numbers of parameters.
        unmatched_macs, unmatched_params (int): Of the mixer at the variant's own ratio.
    """

    expansion_ratio: float
    macs: int
    plain_macs: int
    params: int
    plain_params: int
    unmatched_macs: int
    unmatched_params: int


def matched_twin(
    arch: str | Mapping[str, Any],
    mixer: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]],
    size: tuple[int, int] = SIZE,
) -> Twin:
    """The expansion ratio at which a token mixer costs as much as MambaOut's convolution.

    What a scan costs grows with the pixels, as a convolution's does, so that one ratio fits every
    size; attention's grows with their square, and fits this size alone.

    Args:
        arch (str | Mapping): Of MambaOut: a variant, or its numbers.
        mixer (str | Mapping | Sequence): As :class:`MambaOut` takes it.
        size (tuple[int, int]): Height and width of the image. Defaults to (512, 512).

    Returns:
        Twin: Its ratio, and what both cost.

    Raises:
        ValueError: If ``arch`` or ``mixer`` is unknown.
        UserError: If no ratio gives the same cost within 1 %.

    Example:
        >>> twin = matched_twin('femto', 'ssm', (64, 64))
        >>> abs(twin.macs / twin.plain_macs - 1) < 0.01
        True
    """
    numbers = resolve_arch(dict(arch) if isinstance(arch, Mapping) else arch)
    wanted, plain_params = _cost(MambaOut(numbers), size)
    low = numbers['conv_ratio']  # a block is at least as wide as what its mixer takes

    def cost(ratio: float) -> tuple[int, int]:
        return _cost(MambaOut(dict(numbers, expansion_ratio=ratio), mixer=mixer), size)

    ratio = numbers['expansion_ratio']
    macs, params = unmatched = cost(ratio)
    # Linear in the ratio, but for the whole numbers that widths are rounded to
    slope = cost(ratio + 1)[0] - macs
    best = (abs(macs - wanted), ratio, macs, params)
    for _ in range(6):
        if best[0] < TOLERANCE / 10 * wanted:
            break
        ratio = round(max(low, ratio + (wanted - macs) / slope), 4)
        macs, params = cost(ratio)
        best = min(best, (abs(macs - wanted), ratio, macs, params))
    _, ratio, macs, params = best
    if abs(macs / wanted - 1) > TOLERANCE:
        raise UserError(
            f'no expansion ratio from {low:g} gives the mixer {mixer!r} the cost of MambaOut at '
            f'{size[0]}x{size[1]}: {macs / 1e9:.2f} G against {wanted / 1e9:.2f} G at {ratio:g}'
        )
    return Twin(ratio, macs, wanted, params, plain_params, *unmatched)


def _cost(backbone: nn.Module, size: tuple[int, int]) -> tuple[int, int]:
    """Multiply-accumulates and parameters."""
    macs = count_macs(backbone.eval(), torch.zeros(1, 3, *size))
    return macs, sum(parameter.numel() for parameter in backbone.parameters())
