"""Names in published files of VMamba and of the families whose code began as its.

The official layout (MzeroMiko/VMamba ``classification/models/vmamba.py`` at 2ed52ea) is ours, and
so are LocalVMamba's (hunto/LocalMamba at 75e5d1f) and EfficientVMamba's
(TerryPei/EfficientVMamba at 0bc5ee2). Earlier files have the older names below, which the official
code renames while it loads; those of its detectors and segmentors call the output norms
``outnorm{i}``. Linear layers may be stored as 1x1 convolutions. The classifier is left out.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .errors import UnknownLayoutError

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

# What VMamba's files do not have.
_MARKS = {'LocalVMamba': '.multi_scan.attn.', 'EfficientVMamba': '.conv_branch.'}


def to_official(
    state_dict: Mapping[str, Tensor], family: str, num_stages: int
) -> dict[str, Tensor]:
    """Today's official names, output norms as ``norm{i}``, without the classifier.

    Args:
        state_dict (Mapping[str, Tensor]): From a published file.
        family (str): 'VMamba', 'LocalVMamba' or 'EfficientVMamba'.
        num_stages (int): Stages of the model. What leads to the next one is left out.

    Raises:
        UnknownLayoutError: If it is not of that family.
    """
    # The last of a Sequential in EfficientVMamba's third stage
    unused = re.compile(rf'^layers\.{num_stages - 1}\.(downsample|\d+\.(norm|reduction))\.')
    official = {}
    for name, tensor in state_dict.items():
        if name.startswith(_CLASSIFIER):
            continue
        for pattern, replacement in _RENAMES:
            name = pattern.sub(replacement, name)
        if unused.match(name):
            continue
        if _LINEAR.search(name) and tensor.dim() == 4:
            tensor = tensor.flatten(1)  # (out, in, 1, 1) to (out, in)
        official[name] = tensor
    if _STEM not in official or not any('.op.A_logs' in name for name in official):
        raise UnknownLayoutError(
            f'no {family} backbone in it: {_STEM} and layers.*.blocks.*.op.A_logs are not among '
            f'its {len(state_dict)} keys ({", ".join(list(state_dict)[:4])}, ...)'
        )
    marked = (f for f, mark in _MARKS.items() if any(mark in name for name in official))
    found = next(marked, 'VMamba')
    if found != family:
        raise UnknownLayoutError(
            f'no {family} backbone in it, but one that type={found!r} takes, by its keys'
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


def describe(
    family: str, found: Mapping[str, Any], variants: Mapping[str, Mapping[str, Any]]
) -> str:
    """What :func:`measure` found, in words for an error message.

    Args:
        family (str): As for :func:`to_official`.
        found (Mapping[str, Any]): What :func:`measure` returns.
        variants (Mapping[str, Mapping[str, Any]]): ``depths``, ``dims``, ``ssm_ratio`` and
            ``d_state`` of the family's published variants.
    """
    seen = tuple(found[key] for key in ('depths', 'dims', 'inner', 'd_state'))
    names = [
        name
        for name, v in variants.items()
        if seen == (v['depths'], v['dims'], int(v['ssm_ratio'] * v['dims'][0]), v['d_state'])
    ]
    numbers = (
        f'depths {found["depths"]}, dims {found["dims"]}, {found["inner"]} channels and '
        f'{found["d_state"]} states in the first scan, with{"" if found["mlp"] else "out"} MLP'
    )
    return f'{family} {names[0]} ({numbers})' if names else f'a {family} of {numbers}'
