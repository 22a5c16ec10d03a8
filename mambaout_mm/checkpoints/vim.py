"""Names in published files of Vim and LocalVim.

The official layouts (hustvl/Vim at dd0358a, hunto/LocalMamba at 75e5d1f) are ours but for the
norms: a classifier's final norm ``norm_f`` is the last tap's output norm ``norm3`` here, and
``outnorm_{j}`` of LocalVim's detectors and segmentors is that of the j-th block of their
``out_indices``. The head is left out.
"""

import re
from collections.abc import Collection, Mapping, Sequence

from torch import Tensor

from .errors import CheckpointError, UnknownLayoutError

TAPS = 4  # of a whole network
_OUTPUT_NORM = re.compile(r'outnorm_(\d+)')


def to_own(
    state_dict: Mapping[str, Tensor], family: str, mark: str, taps: Sequence[int]
) -> dict[str, Tensor]:
    """Names as they are here, without the head.

    Args:
        state_dict (Mapping[str, Tensor]): As published.
        family (str): For the error.
        mark (str): What a name of this family's blocks, and of no other's, ends with.
        taps (Sequence[int]): Those of the model that have an output norm.

    Raises:
        UnknownLayoutError: If it is not of this family.
        CheckpointError: If its output norms cannot be told apart.
    """
    needed = {'patch_embed.proj.weight', 'pos_embed'}
    if not needed <= state_dict.keys() or not any(name.endswith(mark) for name in state_dict):
        raise UnknownLayoutError(
            f'no {family} backbone in it: {", ".join(sorted(needed))} and layers.*{mark} are not '
            f'among its {len(state_dict)} keys ({", ".join(list(state_dict)[:4])}, ...)'
        )
    renamed = {'norm_f': f'norm{TAPS - 1}', **_output_norms(state_dict, taps)}
    own = {}
    for name, tensor in state_dict.items():
        part, dot, rest = name.partition('.')
        if part != 'head':
            own[f'{renamed.get(part, part)}{dot}{rest}'] = tensor
    return own


def _output_norms(names: Collection[str], taps: Sequence[int]) -> dict[str, str]:
    """Names here of a file's ``outnorm_{j}``; j counts its taps, whichever blocks they are.

    Four are those of all taps. Else the model must have as many, and is taken to have the same.
    """
    parts = {name.partition('.')[0] for name in names}
    found = sorted(int(m[1]) for m in map(_OUTPUT_NORM.fullmatch, parts) if m)
    if found == list(range(TAPS)) or not taps:
        return {f'outnorm_{j}': f'norm{j}' for j in found}
    if found and found != list(range(len(taps))):
        raise CheckpointError(
            f'its output norms ({", ".join(f"outnorm_{j}" for j in found)}) are those of '
            f'{len(found)} taps and this model has {len(taps)} ({", ".join(map(str, taps))}), so '
            "which belongs to which cannot be told; build the model with the file's taps by "
            "out_indices, or pyramid='last' for the last block alone"
        )
    return {f'outnorm_{j}': f'norm{taps[j]}' for j in found}
