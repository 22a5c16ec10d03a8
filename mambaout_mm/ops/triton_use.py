"""Where operators run their Triton kernels."""

import functools
import warnings
from importlib.util import find_spec

import torch


def runs_triton(device: torch.device, dtype: torch.dtype, operator: str, otherwise: str) -> bool:
    """Whether an operator is to run its Triton kernels: on CUDA, and not in float64.

    Where they would run but Triton is not installed, a warning says so, once for each operator.

    Args:
        device (torch.device): Of the operator's tensors.
        dtype (torch.dtype): That the operator computes in.
        operator (str): Its name, for the warning.
        otherwise (str): How it runs without Triton, for the warning.
    """
    if device.type != 'cuda' or dtype == torch.float64:
        return False
    return _is_installed(operator, otherwise)


def description() -> str:
    """Whether operators run their Triton kernels on this machine, and if not, why."""
    if not torch.cuda.is_available():
        return 'not in use: PyTorch finds no CUDA device'
    if find_spec('triton') is None:
        return 'not in use: Triton is not installed (pip install triton)'
    return f'in use, on {torch.cuda.get_device_name()}'


@functools.cache
def _is_installed(operator: str, otherwise: str) -> bool:
    if find_spec('triton') is not None:
        return True
    warnings.warn(
        f'{operator} runs {otherwise}: Triton is not installed. The result is the same, speed and '
        'memory are not; pip install triton',
        stacklevel=2,
    )
    return False
