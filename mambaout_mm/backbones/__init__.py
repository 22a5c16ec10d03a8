"""Backbones: one module per family, all with the contract of :class:`PyramidBackbone`."""

from .mambaout import MambaOut
from .pyramid import PyramidBackbone
from .timm_pyramid import TimmPyramid
from .vmamba import VMamba

__all__ = ['MambaOut', 'PyramidBackbone', 'TimmPyramid', 'VMamba']
