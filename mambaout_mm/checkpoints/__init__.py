"""Published weights: where they are, how their names map to ours, loading that fails loudly."""

from .errors import CheckpointError, UnknownLayoutError
from .guard import checkpoints_are_data
from .load import check_backbone, load_backbone_weights
from .source import read_checkpoint

__all__ = [
    'CheckpointError',
    'UnknownLayoutError',
    'check_backbone',
    'checkpoints_are_data',
    'load_backbone_weights',
    'read_checkpoint',
]
