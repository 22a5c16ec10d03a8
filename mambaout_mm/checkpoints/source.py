"""From a path, a URL or a catalogue name to the tensors in the file."""

import hashlib
import os
import pickle
import re
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import safetensors.torch
import timm
import torch
from mmengine.dist import barrier
from mmengine.logging import HistoryBuffer
from torch import Tensor

from mambaout_mm.errors import CheckpointError, near_names
from mambaout_mm.trust import is_trusted

from . import old_torch
from .catalogue import MIRRORS, is_named, resolve

TIMM_SCHEME = 'timm://'
# The first digits of a file's SHA-256 in its name, as PyTorch, OpenMMLab and DeiT's authors put
# them there; a date is no such thing.
CHECKSUM = re.compile(r'-(?!\d{8}\.)([0-9a-f]{8,64})\.\w+$')
LONGEST_NAME = 200  # of a download: file systems allow 255 bytes, some go to its digest


def _statistics_method(owner: type, name: str) -> Any:
    """``getattr`` as far as a pickled HistoryBuffer needs it: one of its own public methods."""
    if owner is not HistoryBuffer or name.startswith('_'):
        raise CheckpointError(f'it asks for the attribute {name!r} of {owner!r}')
    return getattr(owner, name)


# What a checkpoint of MMEngine's Runner holds besides tensors: the logged scalars' history. NumPy 2
# renamed the module that NumPy 1 wrote into its files. The two functions come from what pickles
# them: 1.26 has a `numpy._core` without `multiarray`, 2 warns about `numpy.core`.
_REBUILDERS = (np.empty(0).__reduce__()[0], np.float64().__reduce__()[0])
RUNNER_GLOBALS = [
    HistoryBuffer,
    (_statistics_method, 'builtins.getattr'),
    slice,
    np.ndarray,
    np.dtype,
    *(
        (function, f'{module}.multiarray.{name}')
        for function, name in zip(_REBUILDERS, ('_reconstruct', 'scalar'), strict=True)
        for module in ('numpy.core', 'numpy._core')
    ),
    *(type(np.dtype(code)) for code in np.typecodes['All'] if code not in 'MmO'),
]


def allow_runner_globals() -> None:
    """Let ``torch.load(weights_only=True)`` take them, where it can: from PyTorch 2.6 on."""
    if torch.__version__ >= '2.6':
        torch.serialization.add_safe_globals(RUNNER_GLOBALS)


def read_checkpoint(checkpoint: str) -> Mapping[str, Any]:
    """What is stored under a path, URL, ``mambaout://name`` or ``timm://name``.

    Nothing in the file is executed (``torch.load`` with ``weights_only=True``, or
    :mod:`.old_torch`), except within :func:`mambaout_mm.trust.trusting`. Downloads go to PyTorch's
    hub cache, timm's to that of the Hugging Face hub.

    Args:
        checkpoint (str): Where the weights are.

    Returns:
        Mapping[str, Any]: The file's content, on the CPU: a state dict or a dict that wraps one.

    Raises:
        CheckpointError: If there is no such file or name, the network does not answer, or the file
            is truncated or not a checkpoint.
    """
    if checkpoint.startswith(TIMM_SCHEME):
        return _from_timm(checkpoint)
    if '://' in checkpoint:
        path = _download(checkpoint)
    else:
        path = Path(os.path.expanduser(checkpoint))
        if not os.path.isfile(path):  # Path.is_file refuses a name that is too long
            raise CheckpointError(f'there is no checkpoint file {path.absolute()}')
    return _read_file(path)


def _from_timm(checkpoint: str) -> dict[str, Tensor]:
    name = checkpoint.removeprefix(TIMM_SCHEME)
    known = timm.list_models(pretrained=True)
    if name not in known and name not in {tagged.split('.')[0] for tagged in known}:
        raise CheckpointError(f'timm has no weights {name!r}; {near_names(name, known)}')
    try:
        return timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:  # the hub's client raises many types for one cause
        raise CheckpointError(
            f'timm could not fetch the weights of {name!r} from the Hugging Face hub: '
            f'{_first_line(error)}. Without a network, put the model.safetensors of '
            f'https://huggingface.co/timm/{name} on this machine and give its path as checkpoint'
        ) from error


def _download(checkpoint: str) -> Path:
    url = resolve(checkpoint) if is_named(checkpoint) else checkpoint
    try:
        parts = urlparse(url)
    except ValueError as error:
        raise CheckpointError(f'{checkpoint!r} is no URL: {error}') from error
    if parts.scheme not in ('http', 'https'):
        raise CheckpointError(
            f'cannot load a checkpoint from {checkpoint!r}; a path, an http(s) URL, '
            f'mambaout://tiny, vmamba://tiny_s1l8 or {TIMM_SCHEME}convnext_tiny.fb_in1k is expected'
        )
    folder = Path(torch.hub.get_dir()) / 'checkpoints'
    name = os.path.basename(parts.path)[-LONGEST_NAME:]
    if url == checkpoint:  # not from the catalogue: many addresses end in model.safetensors
        name = f'{hashlib.sha256(url.encode()).hexdigest()[:8]}-{name}'
    path = folder / name
    # One process of each machine downloads; hub writes to a temporary file and renames it. The
    # others wait, whatever becomes of it.
    failure: Exception | None = None
    if int(os.environ.get('LOCAL_RANK', 0)) == 0 and not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            checksum = CHECKSUM.search(os.path.basename(parts.path))
            torch.hub.download_url_to_file(url, str(path), checksum and checksum[1])
        except (OSError, ValueError, RuntimeError, HTTPException) as error:  # odd hosts, checksums
            failure = error
    barrier()
    if not path.exists():
        reason = _first_line(failure) if failure else 'see the process with LOCAL_RANK 0'
        mirror = MIRRORS.get(checkpoint)
        raise CheckpointError(
            f'could not download the pretrained weights {url}: {reason}. '
            + (f'{mirror} has the same weights on another hub. ' if mirror else '')
            + f'Without a network, put the file at {path}, or give its path as checkpoint; to '
            'train from random weights on purpose, set init_cfg=None'
        ) from failure
    return path


def _read_file(path: Path) -> Mapping[str, Any]:
    try:
        if path.suffix == '.safetensors':
            return safetensors.torch.load_file(path)
        # They stay registered: upstream MMEngine 0.10.7, which reads the file after us, leaves
        # weights_only at torch's default, True by now. The fork's loader takes them out again.
        allow_runner_globals()
        if is_trusted() or torch.__version__ >= '2.6':
            content = torch.load(path, map_location='cpu', weights_only=not is_trusted())
        else:
            content = old_torch.load_data(path, RUNNER_GLOBALS)
    except pickle.UnpicklingError as error:
        unsafe = re.search(r'GLOBAL ([\w.]+)', str(error))
        if unsafe is None:
            raise _unreadable(path, error) from error
        raise CheckpointError(
            f'{path} holds more than weights ({unsafe.group(1)}), which is not loaded, because '
            'reading it could execute code. Save the state dict alone with '
            'torch.save(model.state_dict(), path), or say --trust if you trust who made the file'
        ) from error
    except Exception as error:  # zip, pickle and safetensors each raise their own types
        raise _unreadable(path, error) from error
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f'{path} holds a {type(content).__name__}, not a state dict; save the model with '
            'torch.save(model.state_dict(), path)'
        )
    return content


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    reason = f'{type(error).__name__}: {_first_line(error)}'
    return CheckpointError(
        f'{path} cannot be read as a checkpoint ({path.stat().st_size:,} bytes, {reason}). It may '
        'be truncated or not a PyTorch file; put a whole copy in its place (a download is fetched '
        'again once the file is gone)'
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
