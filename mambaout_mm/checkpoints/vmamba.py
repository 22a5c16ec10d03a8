"""Names in published VMamba files.

The official layout (MzeroMiko/VMamba ``classification/models/vmamba.py`` at 2ed52ea) is ours.
Earlier files have the older names below, which the official code renames while it loads; those of
its detectors and segmentors call the output norms ``outnorm{i}``. Linear layers may be stored as
1x1 convolutions. The classifier is left out.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .errors import CheckpointError

_STEM = 'patch_embed.0.weight'

_RENAMES = (
    (re.compile(r'^patch_embed\.proj\.'), 'patch_embed.0.'),
    (re.compile(r'^patch_embed\.norm\.'), 'patch_embed.2.'),
    (re.compile(r'^(layers\.\d+\.blocks\.\d+\.)ln_1\.'), r'\1norm.'),
    (re.compile(r'^(layers\.\d+\.blocks\.\d+\.)self_attention\.'), r'\1op.'),
    (re.compile(r'^outnorm(\d)\.'), r'norm\1.'),
)
_CLASSIFIER = ('classifier.', 'norm.', 'head.')  # the latter two in earlier files
_LINEAR = re.compile(r'\.(in_proj|out_proj|fc1|fc2)\.weight$')


def to_official(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Today's official names, output norms as ``norm{i}``, without the classifier.

    Raises:
        CheckpointError: If it is not a VMamba.
    """
    official = {}
    for name, tensor in state_dict.items():
        if name.startswith(_CLASSIFIER):
            continue
        for pattern, replacement in _RENAMES:
            name = pattern.sub(replacement, name)
        if _LINEAR.search(name) and tensor.dim() == 4:
            tensor = tensor.flatten(1)  # (out, in, 1, 1) to (out, in)
        official[name] = tensor
    if _STEM not in official or not any('.op.A_logs' in name for name in official):
        raise CheckpointError(
            f'no VMamba backbone in it: {_STEM} and layers.*.blocks.*.op.A_logs are not among its '
            f'{len(state_dict)} keys ({", ".join(list(state_dict)[:4])}, ...)'
        )
    return official


def measure(state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    """The architecture's numbers that the shapes of an official state dict show.

    Returns:
        dict[str, Any]: ``depths`` and ``dims`` (one entry for each stage in the file), of the first
        block ``inner`` (channels of one scan direction) and ``d_state``, None where the file lacks
        them, and whether it has an ``mlp``.
    """
    blocks = {
        m.groups()
        for m in map(re.compile(r'^layers\.(\d+)\.blocks\.(\d+)\.').match, state_dict)
        if m
    }
    stages = sorted({int(stage) for stage, _ in blocks})
    out_proj = {i: state_dict.get(f'layers.{i}.blocks.0.op.out_proj.weight') for i in stages}
    decay = state_dict.get('layers.0.blocks.0.op.A_logs')  # (4 * inner, d_state)
    return dict(
        depths=tuple(sum(int(stage) == i for stage, _ in blocks) for i in stages),
        dims=tuple(0 if out_proj[i] is None else out_proj[i].shape[0] for i in stages),
        inner=None if decay is None else decay.shape[0] // 4,
        d_state=None if decay is None else decay.shape[1],
        mlp='layers.0.blocks.0.mlp.fc1.weight' in state_dict,
    )
