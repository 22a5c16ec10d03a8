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
import os
import sys
from pathlib import Path

import torch
from torch import Tensor

from .compiling import (
    CompilerError,
    compile_kernels,
    file_name,
    instruction_sets,
    source_files,
    supported,
)

__all__ = ['description', 'in_huge_pages', 'kernels', 'load', 'usable_instruction_sets']

HERE = Path(__file__).parent
SWITCH = 'MAMBAOUT_MM_NATIVE'
HUGE_PAGE = 1 << 21
MADV_HUGEPAGE = 14  # of Linux' mman.h
FLOAT32, BFLOAT16 = 0, 1  # enum dtype of vector.h
DTYPES = {torch.float32: FLOAT32, torch.bfloat16: BFLOAT16}


def kernels() -> ctypes.CDLL | None:
    """The library for this processor, or None where PyTorch's operations are to run instead.

    None if ``MAMBAOUT_MM_NATIVE=off`` is set at the first call, or if there is no such library.
    """
    return _choose()[0]


def description() -> str:
    """Whether the kernels run, for which instruction set, and if not, why."""
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
    library = ctypes.CDLL(str(HERE / file_name(instruction_set)))
    try:
        region = ctypes.CDLL(None).GOMP_parallel
    except AttributeError:
        raise OSError("PyTorch's OpenMP is none that has GOMP_parallel") from None
    library.use_parallel_region(ctypes.cast(region, ctypes.c_void_p))
    return library


@functools.cache
def _choose() -> tuple[ctypes.CDLL | None, str]:
    """The library, and a sentence about it."""
    if os.environ.get(SWITCH, '').lower() == 'off':
        return None, f'off, by {SWITCH}=off'
    try:
        _compile_if_sources_are_newer()
        best = usable_instruction_sets()[0]
        library = load(best)
    except (CompilerError, OSError) as error:
        reason = f'not in use, PyTorch operations run instead: {error}'
        logging.getLogger('mambaout_mm').info('C kernels: %s', reason)
        return None, reason
    return library, f'in use, for {"any processor" if best == "DEFAULT" else best}'


def _compile_if_sources_are_newer() -> None:
    """Where the sources lie beside the package: an editable installation, or none."""
    if not supported():
        raise CompilerError('they are for Linux and macOS')
    files = source_files()
    libraries = [HERE / file_name(name) for name in instruction_sets()]
    if not files:
        return
    oldest = min((x.stat().st_mtime for x in libraries if x.exists()), default=0)
    if not all(x.exists() for x in libraries) or oldest < max(x.stat().st_mtime for x in files):
        compile_kernels(HERE)
