"""Names in published MambaOut files.

The official layout (yuweihao/MambaOut) is ours. timm's differs by the table below; its
``features_only`` models write ``stages_0`` for ``stages.0``. ``head.norm`` exists in both with
different meanings, so the layout is recognised by the stem. The classifier (``norm.*``,
``head.*``; the norm acts on pooled features) is left out.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .errors import UnknownLayoutError

_OFFICIAL_STEM = 'downsample_layers.0.conv1.weight'
_TIMM_STEM = 'stem.conv1.weight'

_FROM_TIMM = (
    (re.compile(r'^stages_(\d+)\.'), r'stages.\1.'),
    (re.compile(r'^stem\.'), 'downsample_layers.0.'),
    (re.compile(r'^stages\.(\d+)\.downsample\.'), r'downsample_layers.\1.'),
    (re.compile(r'^stages\.(\d+)\.blocks\.(\d+)\.'), r'stages.\1.\2.'),
)


def to_official(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Official names for an official or a timm state dict, without the classifier.

    Raises:
        UnknownLayoutError: If neither layout's stem is there.
    """
    if _OFFICIAL_STEM in state_dict:
        renames: tuple = ()
    elif _TIMM_STEM in state_dict:
        renames = _FROM_TIMM
    else:
        raise UnknownLayoutError(
            f'no MambaOut backbone in it: neither {_OFFICIAL_STEM} (official) nor {_TIMM_STEM} '
            f'(timm) is among its {len(state_dict)} keys ({", ".join(list(state_dict)[:4])}, ...)'
        )
    official = {}
    for name, tensor in state_dict.items():
        if name.startswith(('norm.', 'head.')):
            continue
        for pattern, replacement in renames:
            name = pattern.sub(replacement, name)
        official[name] = tensor
    return official


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
