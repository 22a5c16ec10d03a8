"""Where the backbones are registered.

MMEngine imports ``<scope>.registry`` when it meets ``type='<scope>.Name'``, so a config may say
``type='mambaout_mm.MambaOut'`` without any ``custom_imports``. The same class also goes into
MMEngine's root registry, where plain ``type='MambaOut'`` finds it from the scope of mmdet and of
mmseg alike, once this package is imported.
"""

from typing import TypeVar

from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import Registry

from .checkpoints import add_weights

MODELS = Registry(
    'model', parent=MMENGINE_MODELS, scope='mambaout_mm', locations=['mambaout_mm.backbones']
)

Family = TypeVar('Family', bound=type)
FAMILIES: list[type] = []  # in the order in which tables name them: that of their imports


def register_family(cls: Family) -> Family:
    """Class decorator that makes a backbone known.

    It is registered under ``mambaout_mm.Name`` and, in the root, under ``Name``; its published
    weights join the catalogue of checkpoints.
    """
    MODELS.register_module(module=cls)
    MMENGINE_MODELS.register_module(module=cls)
    dense = {name: weights.url for name, weights in cls.dense_weights.items()}
    add_weights(cls.weights | dense, cls.unpublished_weights, cls.mirrored_weights)
    FAMILIES.append(cls)
    return cls
