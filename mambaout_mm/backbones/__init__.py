"""Backbones: one module per family, all with the contract of :class:`PyramidBackbone`."""

from .mambaout import MambaOut
from .pyramid import PyramidBackbone

__all__ = ['MambaOut', 'PyramidBackbone']
