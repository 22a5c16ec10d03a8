"""Reads checkpoints as data with PyTorch before 2.6, in place of ``torch.load(weights_only=True)``.

There ``weights_only`` cannot be given what MMEngine's checkpoints hold, ``getattr`` under another
function, and code that is packed as TorchScript or in a tar archive goes past it (CVE-2025-32434).
"""

import codecs
import pickle
import tarfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

# What torch.save does not write: other ways to make an object.
REFUSED = (pickle.INST, pickle.OBJ, pickle.NEWOBJ_EX, pickle.EXT1, pickle.EXT2, pickle.EXT4)


def load_data(path: Path, extra: Sequence[Any]) -> Any:
    """What a file of ``torch.save`` holds, on the CPU.

    Args:
        path (Path): The file.
        extra (Sequence): Allowed beside what PyTorch allows, as ``add_safe_globals`` takes it.

    Raises:
        pickle.UnpicklingError: If it holds anything else; as PyTorch says it, ``GLOBAL name``.
    """
    unpickler = restricted(extra)
    reader = SimpleNamespace(
        Unpickler=unpickler, load=lambda *args, **kwargs: unpickler(*args, **kwargs).load()
    )
    options = dict(pickle_module=reader, encoding='utf-8')
    with open(path, 'rb') as file:
        if tarfile.is_tarfile(path):
            raise pickle.UnpicklingError('a tar archive is not read')
        if not torch.serialization._is_zipfile(file):
            return torch.serialization._legacy_load(file, 'cpu', **options)
        with torch.serialization._open_zipfile_reader(file) as archive:
            if torch.serialization._is_torchscript_zip(archive):
                raise pickle.UnpicklingError('a TorchScript archive is not read, it holds code')
            return torch.serialization._load(archive, torch.device('cpu'), **options)


def restricted(extra: Sequence[Any]) -> type[pickle._Unpickler]:
    """An unpickler of what PyTorch allows, and ``extra``: see :func:`load_data`."""
    allowed = dict(torch._weights_only_unpickler._get_allowed_globals())
    schemes = torch.per_tensor_affine, torch.per_channel_affine
    since = (  # what PyTorch allows from 2.6 on
        codecs.encode,  # how bytes are written
        Counter,
        bytearray,
        complex,
        set,
        torch.device,
        torch._utils._rebuild_qtensor,
        *((scheme, str(scheme)) for scheme in schemes),
    )
    for entry in (*since, *extra):
        thing, name = entry if isinstance(entry, tuple) else (entry, _name(entry))
        allowed[name] = thing
    return type('Unpickler', (_Unpickler,), dict(allowed=allowed))


class _Unpickler(pickle._Unpickler):
    """The standard library's, which makes and changes no object but of what is allowed."""

    allowed: dict[str, Any]
    dispatch = {
        code: run
        for code, run in pickle._Unpickler.dispatch.items()
        if bytes([code]) not in REFUSED
    }

    def find_class(self, module: str, name: str) -> Any:
        path = f'{module.replace("__builtin__", "builtins")}.{name}'
        if path not in self.allowed:
            raise pickle.UnpicklingError(f'Unsupported GLOBAL {path}')
        return self.allowed[path]

    def load_reduce(self) -> None:
        self._check(self.stack[-2])
        super().load_reduce()

    def load_newobj(self) -> None:
        self._check(self.stack[-2])
        super().load_newobj()

    def load_build(self) -> None:
        self._check(type(self.stack[-2]))
        super().load_build()

    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.NEWOBJ[0]] = load_newobj
    dispatch[pickle.BUILD[0]] = load_build

    def _check(self, thing: Any) -> None:
        if not any(thing is known for known in self.allowed.values()):
            raise pickle.UnpicklingError(f'Unsupported use of GLOBAL {_name(thing)}')


def _name(thing: Any) -> str:
    return f'{getattr(thing, "__module__", "")}.{getattr(thing, "__name__", thing)}'
