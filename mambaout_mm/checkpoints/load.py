"""Weights into a backbone, or an error: never a model that is silently random."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from mmengine.logging import print_log
from torch import Tensor

from .errors import CheckpointError
from .source import read_checkpoint

if TYPE_CHECKING:
    from mambaout_mm.backbones import PyramidBackbone

# In this order: MMEngine's and timm's training checkpoints, then the official ones. Where a file
# has both `model` and `model_ema`, `model` is what the authors' dense training starts from
# (VMamba's `load_pretrained`); the published top-1 is that of `model_ema`.
WRAPPERS = ('state_dict', 'model', 'model_ema')


def load_backbone_weights(
    backbone: 'PyramidBackbone',
    checkpoint: str,
    prefix: str | None = None,
    key: str | None = None,
) -> None:
    """Load published or own weights into a backbone.

    Understood are bare state dicts and those under ``state_dict``, ``model`` or ``model_ema``, the
    family's published layouts, and checkpoints of whole detectors or segmentors (``backbone.``).
    Every parameter must be in the file with its shape. Only output norms ``norm{i}`` and the levels
    ``fpn{i}`` of a simple pyramid may be absent, since classification files have none; a log line
    names what stays at its initial value. The classifier, output norms that this model does not
    have, and stages behind the last of ``out_indices`` are left out of the file.

    Args:
        backbone (PyramidBackbone): Changed in place; unchanged if anything does not fit.
        checkpoint (str): See :func:`mambaout_mm.checkpoints.read_checkpoint`.
        prefix (str, optional): Take the keys under this prefix. Defaults to None: ``backbone.``
            where the file has it, else all keys.
        key (str, optional): Take the state dict under this key, such as ``'model_ema'``. Defaults
            to None: the first that the file has of ``state_dict``, ``model`` and ``model_ema``.

    Raises:
        CheckpointError: If the file cannot be read, lacks ``key``, holds no backbone of this
            family, or a parameter is missing, unexpected or of another shape.
    """
    try:
        state_dict, wrapper = unwrap(read_checkpoint(checkpoint), key)
        state_dict = converted(backbone, select(state_dict, prefix))
        fresh = check_backbone(backbone, state_dict)
    except CheckpointError as error:
        name = type(backbone).__name__
        raise CheckpointError(f'{name} cannot start from {checkpoint!r}: {error}') from error
    own = backbone.state_dict()
    kept = {name: tensor for name, tensor in state_dict.items() if name in own}
    backbone.load_state_dict(kept, strict=False)
    print_log(
        f'{type(backbone).__name__}: {len(kept)} tensors from {checkpoint}'
        + (f" (its '{wrapper}')" if wrapper else '')
        + (f'; fresh: {", ".join(fresh)}' if fresh else ''),
        logger='current',
    )


def unwrap(content: Mapping[str, Any], key: str | None = None) -> tuple[dict[str, Tensor], str]:
    """The state dict in a checkpoint's content, and the key that wrapped it ('' for none).

    Args:
        content (Mapping[str, Any]): What the file holds.
        key (str, optional): Take what is under this key. Defaults to None: the first of
            ``WRAPPERS`` that is there.

    Raises:
        CheckpointError: If no state dict is found.
    """
    if key is not None and not isinstance(content.get(key), Mapping):
        raise CheckpointError(
            f'there is no state dict under key {key!r}; its keys are '
            f'{", ".join(map(str, list(content)[:8]))}'
        )
    for wrapper in WRAPPERS if key is None else (key,):
        if isinstance(content.get(wrapper), Mapping):
            try:
                inner, deeper = unwrap(content[wrapper])
            except RecursionError as error:
                raise CheckpointError(f'its {wrapper!r} holds itself, or has no end') from error
            return inner, f'{wrapper}.{deeper}' if deeper else wrapper
    tensors = {k: v for k, v in content.items() if isinstance(v, Tensor) and isinstance(k, str)}
    if not tensors:
        raise CheckpointError(
            f'no state dict in it; its keys are {", ".join(map(str, list(content)[:8])) or "none"}'
        )
    odd = [name for name, tensor in tensors.items() if not _is_plain(tensor)]
    if odd:
        raise CheckpointError(
            f'{len(odd)} of its {len(tensors)} tensors are no plain ones, but sparse, quantised, '
            f'complex, nested or without content ({", ".join(odd[:3])}); save the weights as '
            'ordinary tensors of floats'
        )
    return tensors, ''


def _is_plain(tensor: Tensor) -> bool:
    return (
        not (tensor.is_nested or tensor.is_quantized or tensor.is_meta or tensor.is_complex())
        and tensor.layout is torch.strided
    )


def converted(backbone: 'PyramidBackbone', state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict under the backbone's own names: its ``convert_checkpoint``.

    Raises:
        CheckpointError: If it is of no layout that the family knows, or of other shapes.
    """
    try:
        return backbone.convert_checkpoint(state_dict)
    except (IndexError, RuntimeError, TypeError, ValueError) as error:  # of tensors' shapes
        raise CheckpointError(
            f'its tensors have not the shapes of a {type(backbone).__name__}: {error}'
        ) from error


def select(state_dict: dict[str, Tensor], prefix: str | None = None) -> dict[str, Tensor]:
    """The backbone's part of a state dict, without the ``module.`` of DDP or MMEngine's EMAHook.

    Raises:
        CheckpointError: If ``prefix`` is given and no key has it.
    """
    state_dict = {name: t for name, t in state_dict.items() if name != 'steps'}  # EMAHook's counter
    if all(name.startswith('module.') for name in state_dict):
        state_dict = {name.removeprefix('module.'): t for name, t in state_dict.items()}
    wanted = 'backbone.' if prefix is None else prefix
    found = {n.removeprefix(wanted): t for n, t in state_dict.items() if n.startswith(wanted)}
    if prefix is not None and not found:
        raise CheckpointError(
            f'no key starts with prefix {prefix!r}; the first ones are '
            f'{", ".join(list(state_dict)[:4])}'
        )
    return found or state_dict


def check_backbone(backbone: 'PyramidBackbone', state_dict: dict[str, Tensor]) -> list[str]:
    """See that a converted state dict has every parameter of a backbone.

    Returns:
        list[str]: The output norms and levels of a pyramid that it lacks.

    Raises:
        CheckpointError: If anything else is missing, unexpected, or of another shape.
    """
    own = backbone.state_dict()
    missing, unused = _optional(own) - _optional(state_dict), _optional(state_dict) - _optional(own)
    left_out = {
        name
        for name in state_dict
        if name not in own and (name.split('.')[0] in unused or backbone.is_unbuilt(name))
    }
    problems = differences(
        {name: tensor for name, tensor in own.items() if name.split('.')[0] not in missing},
        {name: tensor for name, tensor in state_dict.items() if name not in left_out},
    )
    if problems:
        try:
            described = backbone.describe_checkpoint(state_dict)
        except IndexError:
            described = 'tensors of too few dimensions'
        raise CheckpointError(
            f'it holds {described}, which does not fit this model '
            f'of depths {backbone.depths}, dims {backbone.dims}: {problems}'
        )
    return sorted(missing)


def differences(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """How a checkpoint's state dict differs from a model's, in words; '' if it fits exactly."""
    found = {
        'keys missing': [name for name in own if name not in given],
        'keys unexpected': [name for name in given if name not in own],
        'of another shape': [
            f'{name} {tuple(given[name].shape)} in the file, {tuple(own[name].shape)} here'
            for name in own
            if name in given and own[name].shape != given[name].shape
        ],
        'integers in the file': [
            name
            for name in own
            if name in given
            and own[name].is_floating_point()
            and not given[name].is_floating_point()
        ],
        'with values that are no finite numbers': [
            name for name in own if name in given and not _is_finite(given[name])
        ],
    }
    return '; '.join(
        f'{len(names)} {what} ({", ".join(names[:3])}{", ..." if len(names) > 3 else ""})'
        for what, names in found.items()
        if names
    )


def _is_finite(tensor: Tensor) -> bool:
    if tensor.is_meta or not tensor.is_floating_point():
        return True
    return bool(tensor.float().isfinite().all())  # of eight bits, torch has no isfinite


def _optional(state_dict: Mapping[str, Tensor]) -> set[str]:
    """Output norms and levels of a simple pyramid that are in a state dict."""
    parts = {name.split('.')[0] for name in state_dict}
    return {part for part in parts if re.fullmatch(r'norm[0-3]|fpn[1-4]', part)}
