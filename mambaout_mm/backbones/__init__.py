"""Backbones: a file for each family, all with the contract of :class:`PyramidBackbone`."""

# ruff: noqa: I001  The order of the families is that of the tables.
from mambaout_mm.registry import FAMILIES

from .base import PyramidBackbone
from .mambaout import MambaOut as MambaOut
from .vmamba import VMamba as VMamba
from .localvmamba import LocalVMamba as LocalVMamba
from .efficientvmamba import EfficientVMamba as EfficientVMamba
from .vim import Vim as Vim
from .localvim import LocalVim as LocalVim
from .plainmamba import PlainMamba as PlainMamba
from .vit import ViT as ViT
from .timm_pyramid import TimmPyramid as TimmPyramid

__all__ = ['PyramidBackbone', *(family.__name__ for family in FAMILIES)]
