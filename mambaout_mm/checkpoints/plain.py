"""What a state dict of a network of one resolution shows: of Vim, LocalVim and PlainMamba."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor


def depth_of(state_dict: Mapping[str, Tensor]) -> int:
    """Number of layers in a state dict."""
    return len({m.group(1) for m in map(re.compile(r'^layers\.(\d+)\.').match, state_dict) if m})


def positions(numbers: Mapping[str, Any]) -> int:
    """Rows of a position embedding for square training images, without a class token's."""
    return (numbers['img_size'] // numbers['patch_size']) ** 2


def describe(
    family: str, state_dict: Mapping[str, Tensor], variants: Mapping[str, Mapping[str, Any]]
) -> str:
    """What variant a state dict belongs to, in words for an error message.

    Args:
        family (str): Its name.
        state_dict (Mapping[str, Tensor]): Under our names.
        variants (Mapping[str, Mapping[str, Any]]): ``depths``, ``dim``, ``img_size``,
            ``patch_size`` and, of those that have one, ``class_token`` of published variants.
    """
    seen = depth_of(state_dict), *reversed(state_dict['pos_embed'].shape[-2:])  # of (1, L, C)
    depth, dim, tokens = seen
    names = [
        name
        for name, v in variants.items()
        if seen == (sum(v['depths']), v['dim'], positions(v) + v.get('class_token', False))
    ]
    numbers = f'{depth} layers of {dim} channels, {tokens} positions'
    return f'{family} {names[0]} ({numbers})' if names else f'a {family} of {numbers}'
