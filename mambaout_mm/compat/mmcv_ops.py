"""Provides ``mmcv._ext`` where mmcv was installed without its compiled operators.

``mmcv.ops`` loads the extension module ``mmcv._ext`` on import, and mmdet's and mmseg's models
import ``mmcv.ops``. :func:`install` adds an import finder that offers a stand-in of that name,
whose functions (:mod:`mambaout_mm.compat.mmcv_kernels`) use torchvision's operators.

The finder comes last on ``sys.meta_path``, so a compiled ``mmcv._ext`` always wins; one that
exists and fails to load still raises its own ``ImportError``.

Set the environment variable ``MAMBAOUT_MM_MMCV_OPS=off`` to do without the stand-in: importing
``mmcv.ops`` then raises mmcv's own ``ModuleNotFoundError`` where the operators are missing.

mmdet's and mmseg's ``tools/train.py`` and ``tools/test.py`` import nothing that needs
``mmcv.ops`` before the config's ``custom_imports`` run, so listing the package there is early
enough. ``mmdet.apis``, ``mmdet.models``, ``mmseg.apis`` and ``mmseg.models`` do need it, and
keep placeholders in its place for the life of the process when it is missing: import this
package before them (:func:`install` warns when it comes too late).
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from types import ModuleType
from typing import NoReturn

ENV_SWITCH = 'MAMBAOUT_MM_MMCV_OPS'
EXTENSION = 'mmcv._ext'
KERNELS = 'mambaout_mm.compat.mmcv_kernels'
HOW_TO_COMPILE = (
    'Install an mmcv with compiled operators for this PyTorch (`pip install onedl-mim && '
    'mim install onedl-mmcv`), or build mmcv from source where its build sees PyTorch and a '
    'compiler.'
)
# Modules that import mmcv.ops inside try/except and keep the failure.
_KEEP_FAILURE = ('mmdet.models', 'mmdet.structures.mask.structures', 'mmseg.models')


def _missing_operator(name: str) -> Callable[..., NoReturn]:
    """Stands for an operator that has no replacement.

    Args:
        name (str): Name of the operator in ``mmcv._ext``.

    Returns:
        Callable: A function that raises ``NotImplementedError`` when called.

    Raises:
        AttributeError: If ``name`` is private; Python and its tools probe such names.
    """
    if name.startswith('_'):
        raise AttributeError(f'module {EXTENSION!r} has no attribute {name!r}')

    def operator(*args: object, **kwargs: object) -> NoReturn:
        raise NotImplementedError(
            f"the mmcv operator {name!r} needs mmcv's compiled extension, which is not "
            f'installed, and mambaout_mm has no replacement for it. {HOW_TO_COMPILE}'
        )

    operator.__name__ = operator.__qualname__ = name
    return operator


class _StandInLoader(Loader):
    """Fills the module ``mmcv._ext`` with the replacements."""

    def exec_module(self, module: ModuleType) -> None:
        kernels = importlib.import_module(KERNELS)
        for name in kernels.__all__:
            setattr(module, name, getattr(kernels, name))
        module.__doc__ = kernels.__doc__
        module.__getattr__ = _missing_operator

        from mmengine.logging import print_log

        # mmengine's current logger: the terminal before a runner exists, its log file afterwards.
        print_log(
            'mmcv has no compiled operators here: mambaout_mm provides nms, soft_nms, roi_align, '
            'deformable convolutions and attention, focal losses, carafe, masked convolutions and '
            'psa_mask through torchvision and PyTorch; other mmcv operators raise '
            f'NotImplementedError. {ENV_SWITCH}=off disables this.',
            logger='current',
        )


class MMCVOpsFinder(MetaPathFinder):
    """Finds ``mmcv._ext`` after every other finder failed to."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Returns the stand-in's spec for ``mmcv._ext`` and None for any other module.

        Args:
            fullname (str): Name of the module to import.
            path (Sequence[str], optional): ``__path__`` of the installed mmcv, which the import
                system hands over; None without one.
            target (ModuleType, optional): Not used. Defaults to None.

        Returns:
            ModuleSpec or None: None also without an installed mmcv that has ``mmcv.ops``
            (mmcv-lite): mmengine takes a found ``mmcv._ext`` for the promise that
            ``mmcv.ops`` can be imported.
        """
        if fullname != EXTENSION or path is None or PathFinder.find_spec('mmcv.ops', path) is None:
            return None
        origin = find_spec(KERNELS).origin
        return ModuleSpec(fullname, _StandInLoader(), origin=origin)


def install() -> None:
    """Makes ``mmcv._ext`` importable where mmcv has no compiled operators.

    Imports neither mmcv nor torch by itself; may be called any number of times. A line in
    mmengine's current log tells once when the stand-in is really loaded. Does nothing if the
    environment variable ``MAMBAOUT_MM_MMCV_OPS`` is ``off``.

    Raises:
        ValueError: If ``MAMBAOUT_MM_MMCV_OPS`` is neither ``on`` nor ``off``.
    """
    switch = os.environ.get(ENV_SWITCH, 'on')
    if switch not in ('on', 'off'):
        raise ValueError(f'{ENV_SWITCH} must be "on" or "off", got {switch!r}')
    if switch == 'off' or any(isinstance(finder, MMCVOpsFinder) for finder in sys.meta_path):
        return
    sys.meta_path.append(MMCVOpsFinder())

    late = [name for name in _KEEP_FAILURE if name in sys.modules]
    # Had mmcv.ops been there for these modules, it would have loaded its extension.
    if late and EXTENSION not in sys.modules:
        from mmengine.logging import print_log

        print_log(
            f"{', '.join(late)}: imported before mambaout_mm and without mmcv's compiled "
            'operators, so what they use of mmcv.ops stays unavailable in this process. '
            'Import mambaout_mm first.',
            logger='current',
            level=logging.WARNING,
        )
