"""Names in published files of Vim and LocalVim.

The official layouts (hustvl/Vim at dd0358a, hunto/LocalMamba at 75e5d1f) are ours but for the
norms: a classifier's final norm ``norm_f`` is the last tap's output norm ``norm3`` here, and
``outnorm_{j}`` of LocalVim's detectors and segmentors is that of tap j. The head is left out.
"""

import re
from collections.abc import Mapping

from torch import Tensor

from .errors import UnknownLayoutError

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
        UnknownLayoutError: If it is not of this family.
    """
    needed = {'patch_embed.proj.weight', 'pos_embed'}
    if not needed <= state_dict.keys() or not any(name.endswith(mark) for name in state_dict):
        raise UnknownLayoutError(
            f'no {family} backbone in it: {", ".join(sorted(needed))} and layers.*{mark} are not '
            f'among its {len(state_dict)} keys ({", ".join(list(state_dict)[:4])}, ...)'
        )
    own = {}
    for name, tensor in state_dict.items():
        if name.startswith('head.'):
            continue
        for pattern, replacement in _RENAMES:
            name = pattern.sub(replacement, name)
        own[name] = tensor
    return own
