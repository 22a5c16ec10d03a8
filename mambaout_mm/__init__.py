"""MambaOut (arXiv 2405.07992) as a backbone for mmdet and mmseg.

Importing this package registers every backbone and the layer-decay constructor with MMEngine and,
where mmcv came without its compiled operators, offers a stand-in for them
(:mod:`mambaout_mm.compat.mmcv_ops`).
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

from .compat import mmcv_ops as _mmcv_ops

_mmcv_ops.install()

from .backbones import *  # noqa: E402, F403  every family
from .backbones import __all__ as _backbones  # noqa: E402
from .training import LayerDecayOptimWrapperConstructor  # noqa: E402
from .version import __version__  # noqa: E402

__all__ = ['LayerDecayOptimWrapperConstructor', '__version__', *_backbones]
