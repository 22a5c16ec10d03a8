"""Names in published PlainMamba files.

The official layout (ChenhongyiYang/PlainMamba at 0975a1d) is ours but for the norms: ``ln1`` behind
a file's last layer and ``norm_layer{j}`` behind layer j, of segmentors, are the output norms of the
taps there. The head is left out.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor

from .errors import UnknownLayoutError
from .plain import depth_of

_MARK = '.mamba.direction_Bs'


def to_own(state_dict: Mapping[str, Tensor], ends: Sequence[int]) -> dict[str, Tensor]:
    """Names as they are here, without the head.

    Args:
        state_dict (Mapping[str, Tensor]): As published.
        ends (Sequence[int]): The number of layers up to each tap.

    Raises:
        UnknownLayoutError: If it is not of this family.
    """
    if 'pos_embed' not in state_dict or not any(name.endswith(_MARK) for name in state_dict):
        raise UnknownLayoutError(
            f'no PlainMamba backbone in it: pos_embed and layers.*{_MARK} are not among its '
            f'{len(state_dict)} keys ({", ".join(list(state_dict)[:4])}, ...)'
        )
    norms = {f'norm_layer{end - 1}': f'norm{i}' for i, end in enumerate(ends)}
    depth = depth_of(state_dict)
    if depth in ends:
        norms['ln1'] = f'norm{ends.index(depth)}'
    own = {}
    for name, tensor in state_dict.items():
        part, dot, rest = name.partition('.')
        if part != 'head':
            own[f'{norms.get(part, part)}{dot}{rest}'] = tensor
    return own
