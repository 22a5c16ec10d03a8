"""Backbones: one module per family, all with the contract of :class:`PyramidBackbone`."""

from .efficientvmamba import EfficientVMamba
from .localvim import LocalVim
from .localvmamba import LocalVMamba
from .mambaout import MambaOut
from .plainmamba import PlainMamba
from .pyramid import PyramidBackbone
from .timm_pyramid import TimmPyramid
from .vim import Vim
from .vmamba import VMamba

__all__ = [
    'EfficientVMamba',
    'LocalVMamba',
    'LocalVim',
    'MambaOut',
    'PlainMamba',
    'PyramidBackbone',
    'TimmPyramid',
    'VMamba',
    'Vim',
]
