"""State dicts: unwrapped, cut to a backbone's part, and compared with those of a model."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mambaout_mm.errors import CheckpointError

# In this order: MMEngine's and timm's training checkpoints, then the official ones. Where a file
# has both `model` and `model_ema`, `model` is what the authors' dense training starts from
# (VMamba's `load_pretrained`); the published top-1 is that of `model_ema`.
WRAPPERS = ('state_dict', 'model', 'model_ema')


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
