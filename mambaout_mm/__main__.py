"""Say which versions are installed and which kernels run."""

import argparse
import sys
from importlib.metadata import PackageNotFoundError, version

import torch

from .ops import native, triton_use
from .version import __version__

OPENMMLAB = {  # the maintained fork first, as pip calls them
    'mmengine': ('onedl-mmengine', 'mmengine'),
    'mmcv': ('onedl-mmcv', 'mmcv', 'mmcv-lite'),
    'mmdet': ('onedl-mmdetection', 'mmdet'),
    'mmseg': ('onedl-mmsegmentation', 'mmsegmentation'),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog='python -m mambaout_mm', description=__doc__)
    parser.parse_args()
    try:
        c_kernels = native.description()
    except ValueError as error:
        sys.exit(f'error: {error}')
    lines = {
        'mambaout_mm': __version__,
        'PyTorch': f'{torch.__version__}, {torch.get_num_threads()} threads',
        **{name: _installed(*distributions) for name, distributions in OPENMMLAB.items()},
        'C kernels': c_kernels,
        'Triton kernels': triton_use.description(),
    }
    for name, said in lines.items():
        print(f'{name + ":":16}{said}')


def _installed(*distributions: str) -> str:
    for name in distributions:
        try:
            return f'{version(name)} ({name})'
        except PackageNotFoundError:
            pass
    return 'not installed'


if __name__ == '__main__':
    main()
