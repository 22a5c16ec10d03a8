"""MambaOut (arXiv 2405.07992) as a backbone for mmdet and mmseg.

Importing this package registers every backbone and the layer-decay constructor with MMEngine and,
where mmcv came without its compiled operators, offers a stand-in for them (see
:mod:`mambaout_mm.compat.mmcv_ops`).
"""

try:
    import mmengine  # noqa: F401
except ModuleNotFoundError as error:
    raise ImportError(
        'mambaout_mm needs MMEngine, which is not installed. '
        'Run `pip install "mambaout-mm[mm]"` for the maintained OpenMMLab packages '
        '(onedl-mmengine, onedl-mmcv, onedl-mmdetection, onedl-mmsegmentation), or install '
        'upstream mmengine, mmcv and mmdet or mmsegmentation yourself.'
    ) from error

from .compat.mmcv_ops import install as _install_mmcv_ops

_install_mmcv_ops()

from .backbones import MambaOut, PyramidBackbone, TimmPyramid, VMamba  # noqa: E402
from .training import LayerDecayOptimWrapperConstructor  # noqa: E402
from .version import __version__  # noqa: E402

__all__ = [
    'LayerDecayOptimWrapperConstructor',
    'MambaOut',
    'PyramidBackbone',
    'TimmPyramid',
    'VMamba',
    '__version__',
]
