"""Where the backbones are registered.

MMEngine imports ``<scope>.registry`` when it meets ``type='<scope>.Name'``, so a config may say
``type='mambaout_mm.MambaOut'`` without any ``custom_imports``. The same class also goes into
MMEngine's root registry, where plain ``type='MambaOut'`` finds it from the scope of mmdet and of
mmseg alike, once this package is imported.
"""

from typing import TypeVar

from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import Registry

MODELS = Registry(
    'model', parent=MMENGINE_MODELS, scope='mambaout_mm', locations=['mambaout_mm.backbones']
)

Backbone = TypeVar('Backbone', bound=type)


def register_backbone(cls: Backbone) -> Backbone:
    """Class decorator: register under ``mambaout_mm.Name`` and, in the root, under ``Name``."""
    MODELS.register_module(module=cls)
    MMENGINE_MODELS.register_module(module=cls)
    return cls
