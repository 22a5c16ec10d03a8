"""Published weights: where they are, how their names map to ours, loading that fails loudly."""

from .errors import CheckpointError
from .load import load_backbone_weights
from .source import read_checkpoint

__all__ = ['CheckpointError', 'load_backbone_weights', 'read_checkpoint']
