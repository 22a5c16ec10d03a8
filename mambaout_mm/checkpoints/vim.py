"""Names in published files of Vim and LocalVim.

The official layouts (hustvl/Vim at dd0358a, hunto/LocalMamba at 75e5d1f) are ours but for the
norms: a classifier's final norm ``norm_f`` is the last tap's output norm ``norm3`` here, and
``outnorm_{j}`` of LocalVim's detectors and segmentors is that of tap j. The head is left out.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .errors import CheckpointError

_STEM = 'patch_embed.proj.weight'
_RENAMES = (
    (re.compile(r'^norm_f\.'), 'norm3.'),
    (re.compile(r'^outnorm_(\d)\.'), r'norm\1.'),
)


def to_own(state_dict: Mapping[str, Tensor], family: str, mark: str) -> dict[str, Tensor]:
    """Names as they are here, without the head.

    Args:
        state_dict (Mapping[str, Tensor]): As published.
        family (str): For the error.
        mark (str): What a name of this family's blocks, and of no other's, ends with.

    Raises:
        CheckpointError: If it is not of this family.
    """
    if _STEM not in state_dict or not any(name.endswith(mark) for name in state_dict):
        raise CheckpointError(
            f'no {family} backbone in it: {_STEM} and layers.*{mark} are not among its '
            f'{len(state_dict)} keys ({", ".join(list(state_dict)[:4])}, ...)'
        )
    own = {}
    for name, tensor in state_dict.items():
        if name.startswith('head.'):
            continue
        for pattern, replacement in _RENAMES:
            name = pattern.sub(replacement, name)
        own[name] = tensor
    return own


def measure(state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    """The architecture's numbers that the shapes of a state dict show.

    Returns:
        dict[str, Any]: ``depth`` (blocks), ``dim`` and ``tokens`` (rows of the position embedding).
    """
    layers = {m.group(1) for m in map(re.compile(r'^layers\.(\d+)\.').match, state_dict) if m}
    positions = state_dict['pos_embed']  # (1, L, C)
    return dict(depth=len(layers), dim=positions.shape[2], tokens=positions.shape[1])
