"""Checkpoints: files read as data, and the state dicts in them matched against names and shapes."""

from typing import Any

from mambaout_mm.errors import CheckpointError, UnknownLayoutError

from .catalogue import add_weights
from .guard import checkpoints_are_data
from .source import read_checkpoint
from .state_dicts import differences, select, unwrap

__all__ = [
    'CheckpointError',
    'UnknownLayoutError',
    'add_weights',
    'checkpoints_are_data',
    'differences',
    'read_checkpoint',
    'select',
    'unwrap',
]

_MOVED = {
    'load_backbone_weights': 'backbone.load_published(checkpoint)',
    'check_backbone': 'backbone.match_checkpoint(state_dict)',
}


def __getattr__(name: str) -> Any:
    if name in _MOVED:
        raise AttributeError(f'{__name__}.{name} has become a method: {_MOVED[name]}')
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
