"""What stops a run, in one sentence each."""

import errno
import logging
import pickle
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import TRANSFORMS
from mmengine.runner import Runner

from mambaout_mm.errors import UserError, near_names

from . import checks
from .data_checks import explain_reading
from .loading import NamingRunner, without_traceback
from .options import REGISTRIES, names_in

OUT_OF_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory", re.I)
DEAD_WORKER = re.compile(r'DataLoader worker .* (is killed|exited unexpectedly)')
MISFIT = re.compile(r'Given groups=|mat1 and mat2 shapes cannot be multiplied|Prior generators? ')
NOT_REGISTERED = re.compile(r'([\w.]+) is not in the \w+::(.+?) registry')
REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EACCES)
PACKAGE, LIBRARIES = 'mambaout_mm', ('mmdet', 'mmseg', 'mmengine', 'mmcv')
NO_ANNOTATIONS = 'need at least one array to concatenate'


def build_runner(cfg: Config) -> Runner:
    """The Runner of a config; what its classes refuse is the config's mistake."""
    try:
        return NamingRunner.from_cfg(cfg)
    except UserError:
        raise
    except Exception as error:  # whatever its classes raise
        if isinstance(error, MemoryError) or OUT_OF_MEMORY.search(str(error)):
            raise
        raise UserError(_unbuilt(error)) from error


def _unbuilt(error: Exception) -> str:
    unknown = NOT_REGISTERED.search(str(error))
    if unknown is None:
        first_line = (str(error).strip().splitlines() or [''])[0]
        return f'the config cannot be built: {type(error).__name__}: {first_line}'
    name, kind = unknown.groups()
    known = [name for registry in (*REGISTRIES, TRANSFORMS) for name in names_in(registry)]
    return f'the config names a {kind} {name!r}, which is not there; {near_names(name, known)}'


@contextmanager
def explained(cfg: Config, training: bool, options: dict[str, Any] | None = None) -> Iterator[None]:
    """Turn the known failures of a run into one sentence each."""
    loud, logging.raiseExceptions = logging.raiseExceptions, False  # of a log on a full disk
    try:
        yield
    except UserError as error:
        plain = without_traceback(error)
        if plain is error:
            raise
        raise plain from error
    except Exception as error:
        sentence = _explanation(error, cfg, training) or _stopped_library(error, options or {})
        if sentence is None:
            raise
        raise UserError(sentence) from error
    finally:
        logging.raiseExceptions = loud


def _explanation(error: Exception, cfg: Config, training: bool) -> str | None:
    """None if the failure is not known."""
    words = str(error)
    first_line = (words.strip().splitlines() or [type(error).__name__])[0]
    loader = 'train_dataloader' if training else 'test_dataloader'
    if isinstance(error, MemoryError) or OUT_OF_MEMORY.search(words):
        advice = 'Shrink the images in the test pipeline (test_dataloader.dataset.pipeline)'
        if training:
            advice = (
                f'Lower train_dataloader.batch_size (now {cfg.train_dataloader.batch_size}), '
                'recompute activations with --cfg-options model.backbone.with_cp=True, train in '
                'half precision with --amp, or shrink the images in the training pipeline'
            )
        return f'out of memory on {get_device()} ({first_line}). {advice}'
    splits = ('train', 'val') if training else ('test',)
    explain_reading(cfg, splits, error)
    if isinstance(error, ValueError) and NO_ANNOTATIONS in words:
        for split in splits:
            checks.check_split_classes(cfg, split, always=True)
        return (
            'the data set has no image left: every one was filtered out. Look at filter_cfg '
            '(images without objects, min_size) and at ann_file and data_prefix in the config'
        )
    if isinstance(error, pickle.UnpicklingError):
        return (
            f'a checkpoint holds more than weights, which could run as code: {first_line}; say '
            '--trust if you trust who made it'
        )
    if isinstance(error, OSError) and error.errno in REFUSED:
        return (
            f'{error.filename or "a file"!r} cannot be written: {error.strerror}. Checkpoints are '
            'whole; make room and run it again, a training with --resume'
        )
    if DEAD_WORKER.search(words):
        return (
            f'a process that loads data was killed ({first_line}): for want of memory as a rule. '
            f'Lower {loader}.num_workers (now {cfg[loader].get("num_workers")}), or give the '
            'container more shared memory'
        )
    if 'Expected more than 1 value per channel when training' in words:
        return (
            'a batch of one image is too small for batch normalisation behind a global pooling; '
            'set train_dataloader.batch_size to 2 or more, and train_dataloader.drop_last=True '
            'where the last batch of an epoch has one image'
        )
    if MISFIT.search(words):
        return (
            f'the parts of the model do not fit: {first_line}. Compare the in_channels of neck and '
            'heads with the out_channels of what is before them'
        )
    frames = traceback.extract_tb(error.__traceback__)
    if any(frame.name.startswith('build_') for frame in frames):  # MMEngine's registries, Runner
        return _unbuilt(error)
    return None


def _stopped_library(error: Exception, options: dict[str, Any]) -> str | None:
    """For an error in mmdet, mmseg or MMEngine, which a value of the config has led to as a rule.

    Returns:
        str | None: None if this package's own code is nearer to the error.
    """
    frames = reversed(traceback.extract_tb(error.__traceback__))
    parts = ((frame, Path(frame.filename).parts) for frame in frames)
    # The operators in compat/ take what mmdet gives them
    nearest = next(
        ((f, p) for f, p in parts if {*LIBRARIES, PACKAGE} & {*p} and 'compat' not in p), None
    )
    if nearest is None or PACKAGE in nearest[1]:
        return None
    frame, place = nearest
    library = next(part for part in reversed(place) if part in LIBRARIES)
    lines = str(error).strip().splitlines() or ['no reason is given']
    # A process that loads data sends its traceback, the error at its end
    words = lines[-1] if 'Original Traceback' in str(error) else lines[0]
    first = f' Look at what --cfg-options changed: {", ".join(options)}.' if options else ''
    return (
        f'{library} stops in {frame.name} ({place[-1]}, line {frame.lineno}): '
        f'{type(error).__name__}: {words}. As a rule a value in the config is not what it needs.'
        f'{first} --debug shows the traceback; if the config is one of configs/ and unchanged, '
        'please report it'
    )
