"""What mmcv's environment report says of the operators (mmcv/ops/info.py)."""

import torchvision


def get_compiler_version() -> str:
    """What the operators were made with, in place of a compiler's version.

    Returns:
        str: torchvision's version.
    """
    return f'none (mambaout_mm on torchvision {torchvision.__version__})'


def get_compiling_cuda_version() -> str:
    """Which CUDA the operators were compiled with.

    Returns:
        str: The CUDA version of torchvision, or mmcv's ``'not available'`` for a CPU
        build.
    """
    version = torchvision.version.cuda  # as in CUDA's headers: 13000 for 13.0
    return 'not available' if version is None else f'{version // 1000}.{version // 10 % 100}'
