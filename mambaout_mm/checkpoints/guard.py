"""Makes MMEngine read checkpoints as data only; anything else in them is refused with a sentence.

MMEngine's own loader runs whatever a checkpoint holds. The maintained fork first tries
``weights_only=True``, with an allow-list that contains ``getattr`` itself, and then loads again
without.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader

from mambaout_mm.trust import is_trusted

from .source import RUNNER_GLOBALS, allow_runner_globals, read_checkpoint

FORCE = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'  # read by torch.load at each call, here and in workers


def load_from_data_only(filename: str, map_location: Any = None) -> Mapping[str, Any]:
    """Read a checkpoint in place of MMEngine's loaders of paths and URLs.

    MMEngine logs ``__name__[10:]`` of a loader, so the name has to begin with ``load_from_``.
    """
    content = read_checkpoint(filename)  # on the CPU, from where it is copied into the model
    meta = content.get('meta')
    if not isinstance(meta, dict) or 'config' not in meta:
        return content
    # Checkpoints older than MMEngine hold a config. The Runner would execute it to read `gpu_ids`.
    return {**content, 'meta': {key: value for key, value in meta.items() if key != 'config'}}


@contextmanager
def checkpoints_are_data() -> Iterator[None]:
    """Read all checkpoints with ``weights_only=True``, MMEngine's ways of reading them included.

    Does nothing within :func:`mambaout_mm.trust.trusting`.
    """
    if is_trusted():
        yield
        return
    environment = os.environ.get(FORCE)
    schemes = CheckpointLoader._schemes
    allowed = getattr(mmengine_checkpoint, 'get_torch_safe_globals', None)
    # In MMEngine's order: '' matches everything that nothing before it does.
    own = ('', 'http://', 'https://')
    CheckpointLoader._schemes = {
        p: load_from_data_only if p in own else schemes[p] for p in schemes
    }
    os.environ[FORCE] = '1'
    allow_runner_globals()
    if allowed is not None:
        mmengine_checkpoint.get_torch_safe_globals = lambda: RUNNER_GLOBALS
    try:
        yield
    finally:
        CheckpointLoader._schemes = schemes
        if environment is None:
            del os.environ[FORCE]
        else:
            os.environ[FORCE] = environment
        if allowed is not None:
            mmengine_checkpoint.get_torch_safe_globals = allowed
