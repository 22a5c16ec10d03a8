"""The C kernels of the operators, as a library that is compiled when the package is installed.

``vector.h``, ``parallel.h``  what the kernels share; they stand in the operators' folders
``compiling.py``              compiles them
``backend.py``                asks for a compiler from a wheel where the machine has none

A kernel takes the address of a ``ctypes.Structure`` with its arguments, which its ``.c`` file
declares in the same order. While it runs, other Python threads run too.
"""

import ctypes
import functools
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from .compiling import (
    SWITCH,
    CompilerError,
    compile_kernels,
    file_name,
    instruction_sets,
    newest_change,
    supported,
    switched_off,
)

__all__ = ['description', 'in_huge_pages', 'kernels', 'load', 'off', 'usable_instruction_sets']

HERE = Path(__file__).parent
HUGE_PAGE = 1 << 21
MADV_HUGEPAGE = 14  # of Linux' mman.h
FLOAT32, BFLOAT16 = 0, 1  # enum dtype of vector.h
DTYPES = {torch.float32: FLOAT32, torch.bfloat16: BFLOAT16}
_off = False


def kernels() -> ctypes.CDLL | None:
    """The library for this processor, or None where PyTorch's operations are to run instead.

    None if ``MAMBAOUT_MM_NATIVE=off`` is set at the first call, or if there is no such library.

    Raises:
        ValueError: If ``MAMBAOUT_MM_NATIVE`` is neither ``on`` nor ``off``.
    """
    return None if _off else _choose()[0]


@contextmanager
def off() -> Iterator[None]:
    """Let PyTorch's operations run instead, to compare with them."""
    global _off
    before, _off = _off, True
    try:
        yield
    finally:
        _off = before


def description() -> str:
    """Whether the kernels run, for which instruction set, and if not, why.

    Raises:
        ValueError: As :func:`kernels`.
    """
    return _choose()[1]


def usable_instruction_sets() -> tuple[str, ...]:
    """Names of the instruction sets that this processor has, the best first.

    PyTorch's own choice, which ``ATEN_CPU_CAPABILITY`` can lower.
    """
    known = instruction_sets()
    capability = torch.backends.cpu.get_cpu_capability()
    best = next((name for name in known if capability.startswith(name)), 'DEFAULT')
    return known[known.index(best) :]


def in_huge_pages(x: Tensor) -> Tensor:
    """``x``, whose fresh memory Linux is asked to map in pages of 2 MB.

    Mapping 98 MB in pages of 4 KB takes 38 ms when they are first written, and in those 6.
    """
    first, end = x.data_ptr(), x.data_ptr() + x.nbytes
    first, end = -(-first // HUGE_PAGE) * HUGE_PAGE, end // HUGE_PAGE * HUGE_PAGE
    if sys.platform == 'linux' and first < end:
        size = ctypes.c_size_t(end - first)
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), size, MADV_HUGEPAGE)
    return x


def load(instruction_set: str) -> ctypes.CDLL:
    """The library of an instruction set, on PyTorch's threads.

    Raises:
        OSError: If it is not there, or PyTorch's threads are not those of OpenMP.
    """
    path = HERE / file_name(instruction_set)
    if not path.exists():
        raise OSError(
            f'{path.name} is not in this installation, which was built without a C compiler or '
            f'under {SWITCH}=off'
        )
    library = ctypes.CDLL(str(path))
    try:
        region = ctypes.CDLL(None).GOMP_parallel
    except AttributeError:
        raise OSError("PyTorch's OpenMP is none that has GOMP_parallel") from None
    library.use_parallel_region(ctypes.cast(region, ctypes.c_void_p))
    return library


@functools.cache
def _choose() -> tuple[ctypes.CDLL | None, str]:
    """The library, and a sentence about it."""
    if switched_off():
        return None, f'off, by {SWITCH}=off'
    try:
        _compile_if_sources_changed()
        best = usable_instruction_sets()[0]
        library = load(best)
    except (CompilerError, OSError) as error:
        reason = f'not in use, PyTorch operations run instead: {error}'
        logging.getLogger('mambaout_mm').info('C kernels: %s', reason)
        return None, reason
    return library, f'in use, for {"any processor" if best == "DEFAULT" else best}'


def _compile_if_sources_changed() -> None:
    """Where the sources lie beside the package, as in an editable installation."""
    if not supported():
        raise CompilerError('they are for Linux and macOS')
    changed = newest_change()
    libraries = [HERE / file_name(name) for name in instruction_sets()]
    if changed and any(not x.exists() or x.stat().st_mtime_ns != changed for x in libraries):
        compile_kernels(HERE)
