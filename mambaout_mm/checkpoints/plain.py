"""What a state dict of a network of one resolution shows: of Vim, LocalVim and PlainMamba."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor


def depth_of(state_dict: Mapping[str, Tensor]) -> int:
    """Number of layers in a state dict."""
    return len({m.group(1) for m in map(re.compile(r'^layers\.(\d+)\.').match, state_dict) if m})


def describe(
    family: str, state_dict: Mapping[str, Tensor], variants: Mapping[str, Mapping[str, Any]]
) -> str:
    """What variant a state dict belongs to, in words for an error message.

    Args:
        family (str): Its name.
        state_dict (Mapping[str, Tensor]): Under our names.
        variants (Mapping[str, Mapping[str, Any]]): ``depths`` and ``dim`` of published ones.
    """
    depth = depth_of(state_dict)
    _, tokens, dim = state_dict['pos_embed'].shape  # (1, L, C)
    names = [name for name, v in variants.items() if (depth, dim) == (sum(v['depths']), v['dim'])]
    numbers = f'{depth} layers of {dim} channels, {tokens} positions'
    return f'{family} {names[0]} ({numbers})' if names else f'a {family} of {numbers}'
