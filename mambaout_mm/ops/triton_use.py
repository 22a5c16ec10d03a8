"""Where operators run their Triton kernels."""

import functools
import importlib
import warnings
from importlib.util import find_spec

import torch

OLDEST = '3.3'  # tuples in kernels; PyTorch 2.7 brings it


def runs_triton(device: torch.device, dtype: torch.dtype, operator: str, otherwise: str) -> bool:
    """Whether an operator is to run its Triton kernels: on CUDA, and not in float64.

    Where they would run but Triton is not installed, or too old, a warning says so, once for each
    operator.

    Args:
        device (torch.device): Of the operator's tensors.
        dtype (torch.dtype): That the operator computes in.
        operator (str): Its name, for the warning.
        otherwise (str): How it runs without Triton, for the warning.
    """
    if device.type != 'cuda' or dtype == torch.float64:
        return False
    return _is_usable(operator, otherwise)


def description() -> str:
    """Whether operators run their Triton kernels on this machine, and if not, why."""
    if not torch.cuda.is_available():
        return 'not in use: PyTorch finds no CUDA device'
    missing = _missing()
    return f'not in use: {missing}' if missing else f'in use, on {torch.cuda.get_device_name()}'


def _missing() -> str:
    """What keeps the kernels from running, and what to do; '' if nothing does."""
    if find_spec('triton') is None:
        return 'Triton is not installed (pip install triton)'
    version = importlib.import_module('triton').__version__
    if tuple(map(int, version.split('.')[:2])) < tuple(map(int, OLDEST.split('.'))):
        return f'Triton {version} is older than {OLDEST}, which comes with PyTorch 2.7'
    return ''


@functools.cache
def _is_usable(operator: str, otherwise: str) -> bool:
    missing = _missing()
    if missing:
        warnings.warn(
            f'{operator} runs {otherwise}: {missing}. The result is the same, speed and memory are '
            'not',
            stacklevel=2,
        )
    return not missing
