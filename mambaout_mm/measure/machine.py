"""The machine: what it is, and how fast it copies and multiplies."""

import os
import platform
from pathlib import Path
from typing import Any

import torch

from mambaout_mm.ops import native
from mambaout_mm.ops.products import matmul

from .timing import take_turns


def machine(device: str) -> dict[str, Any]:
    """Columns that say where a table was made: device, threads, versions, C kernels."""
    cuda = device == 'cuda'
    return dict(
        device=torch.cuda.get_device_name() if cuda else processor_name(),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        python=platform.python_version(),
        c_kernels='' if cuda else native.description(),
        omp_wait_policy=os.environ.get('OMP_WAIT_POLICY', ''),
    )


def processor_name() -> str:
    """The processor's name: on Linux from /proc/cpuinfo, since Python has none for it there."""
    cpuinfo = Path('/proc/cpuinfo')
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(':', 1)[1].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.processor() or platform.machine()


def copy_rate(device: str) -> float:
    """Bytes read and written per second by a copy of 256 MB: the best of ten."""
    source = torch.ones(1 << 28, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = take_turns({'copy': lambda: target.copy_(source)}, 10, device)
    return 2 * source.numel() / min(seconds['copy'])


def matmul_rate(device: str, dtype: torch.dtype) -> float:
    """Floating-point operations per second of a large square matrix product: the best of ten.

    On a CPU by the library that PyTorch takes or by oneDNN, whichever is faster.
    """
    side = 2048 if device == 'cpu' else 8192
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    calls = {'torch': lambda: a @ b}
    if device == 'cpu':
        calls['onednn'] = lambda: matmul(a, b)
    seconds = take_turns(calls, 10, device)
    return 2 * side**3 / min(min(times) for times in seconds.values())
