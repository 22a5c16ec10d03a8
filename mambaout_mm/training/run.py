"""One training or test run: from a config file and flags to MMEngine's Runner."""

import errno
import gc
import logging
import os
import pickle
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch.distributed
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import get_world_size
from mmengine.logging import print_log
from mmengine.registry import METRICS, TRANSFORMS
from mmengine.runner import Runner

from mambaout_mm.checkpoints import checkpoints_are_data
from mambaout_mm.config_tree import dicts_in
from mambaout_mm.demo import announce, apply_demo, output_into, report
from mambaout_mm.errors import UserError, near_names
from mambaout_mm.files import LONGEST_NAME, check_folder
from mambaout_mm.trust import trusting

from . import checks
from .checkpoint_files import newest_whole_checkpoint, whole_files
from .data_checks import check_contents, explain_reading
from .finite_loss import FiniteLossHook
from .interruption import SaveThenStopHook, told_when_stopped
from .loading import NamingRunner, without_traceback
from .lock import RANKS, locked
from .options import REGISTRIES, merge_options, names_in
from .parts import check_parts
from .predictions import DumpDetections, DumpSegResults
from .seeding import SeedIterationsHook, seed_by_place
from .values import check_values

OUT_OF_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory", re.I)
STARTERS = dict(pytorch='torchrun (tools/dist_train.sh)', slurm='srun', mpi='mpirun')
DEAD_WORKER = re.compile(r'DataLoader worker .* (is killed|exited unexpectedly)')
MISFIT = re.compile(r'Given groups=|mat1 and mat2 shapes cannot be multiplied|Prior generators? ')
NOT_REGISTERED = re.compile(r'([\w.]+) is not in the \w+::(.+?) registry')
REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EACCES)
PACKAGE, LIBRARIES = 'mambaout_mm', ('mmdet', 'mmseg', 'mmengine', 'mmcv')
NO_ANNOTATIONS = 'need at least one array to concatenate'


def train(
    config: str,
    work_dir: str | None = None,
    resume: str | None = None,
    amp: bool = False,
    cfg_options: dict[str, Any] | None = None,
    launcher: str = 'none',
    demo: bool = False,
    trust: bool = False,
    save_on: str | None = None,
) -> None:
    """Train what a config describes.

    Args:
        config (str): Path of the config.
        work_dir (str, optional): Where logs and checkpoints go. Defaults to the config's own, else
            ``work_dirs/<config's name>``, with ``_demo`` for the demo.
        resume (str, optional): A checkpoint to go on from, or ``'auto'`` for the latest one in
            ``work_dir``. Defaults to None.
        amp (bool): Mixed precision (FP16 with dynamic loss scaling). Defaults to False.
        cfg_options (dict, optional): Dotted keys and their values, merged last. Defaults to None.
        launcher (str): ``'none'``, ``'pytorch'``, ``'slurm'`` or ``'mpi'``. Defaults to 'none'.
        demo (bool): Train on the embedded data set instead (:mod:`mambaout_mm.demo`). Defaults to
            False.
        trust (bool): Let checkpoints run code as they are read. Defaults to False.
        save_on (str, optional): A signal of :data:`.interruption.SIGNALS`, at which a checkpoint
            is written and the training stops. Defaults to None.

    Raises:
        UserError: For anything that the user can put right; the message says how.
    """
    if resume == '':
        raise UserError('--resume names no checkpoint; leave the empty name out for the latest one')
    cfg = checks.load_config(config)
    with checks.config_blamed():
        if demo:
            try:
                apply_demo(cfg, Path('work_dirs') / 'demo_data')
            except (AttributeError, KeyError, TypeError) as error:
                raise UserError(
                    f'--demo cannot put its data and schedule into {config}: {error}. It takes '
                    'the configs of configs/, and those that have one of them as _base_'
                ) from error
        if amp:
            checks.check_amp()
            cfg.optim_wrapper.type = 'AmpOptimWrapper'
            cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
        merge_options(cfg, cfg_options or {})
        check_values(cfg, 'training')
        check_parts(cfg)
        suffix = '_demo' if demo else ''
        cfg.work_dir = work_dir or cfg.get('work_dir') or f'work_dirs/{Path(config).stem}{suffix}'
        _take_our_parts(cfg)
    _prepare_launcher(cfg, launcher)
    saver = SaveThenStopHook(save_on) if save_on else None
    log = Path(cfg.work_dir) / 'output.log'
    with (
        told_when_stopped(saver) as watched,
        locked(cfg.work_dir, launcher),
        output_into(log) if demo else nullcontext() as display,
        whole_files(),
        trusting(trust),
        checkpoints_are_data(),
        _explained(cfg, training=True, options=cfg_options),
    ):
        if resume is None and cfg.get('resume') and not cfg.get('load_from'):
            resume = 'auto'
        if resume:
            checkpoint = newest_whole_checkpoint(cfg.work_dir) if resume == 'auto' else resume
            # Without one a first start, which a restarting job script need not tell apart
            cfg.resume = checkpoint is not None
            cfg.load_from = checkpoint or cfg.get('load_from')
        if cfg.get('resume') and cfg.get('load_from'):
            # Before anything is built: MMEngine takes the seed up when data are drawn up already
            meta = checks.check_resumable(cfg.load_from)
            if checks.is_seed(meta.get('seed')):
                cfg.randomness = dict(cfg.get('randomness') or {}, seed=meta['seed'])
            if _is_over(cfg.train_cfg, meta):
                say = display.console.print if demo else print
                say(
                    f'{cfg.load_from} is the end of this training: {meta["epoch"]} epochs, '
                    f'{meta["iter"]} iterations. Give train_cfg a greater max_epochs or max_iters '
                    'to train for longer'
                )
                _leave_process_group()
                return
        with checks.config_blamed():
            checks.check_data(cfg, ('train', 'val'))
            checks.check_num_classes(cfg)
        check_contents(cfg, ('train', 'val'))
        with checks.config_blamed():
            seed_by_place(cfg)
        runner = watched.runner = build_runner(cfg)
        if cfg.get('load_from') and cfg.get('resume'):
            checks.check_fits(runner.model, cfg.load_from)
        elif cfg.get('load_from'):
            checks.check_backbone_fits(runner.model, cfg.load_from)
        for hook in filter(None, (SeedIterationsHook(), FiniteLossHook(), saver)):
            runner.register_hook(hook)
        shown = demo and runner.rank == 0
        if shown:
            runner.register_hook(display)
            announce(runner, log, display.console)
        elif not demo:
            _warn_about_batch_size(cfg)
        runner.train()
        if shown:
            report(runner, config, display.console)
    del runner
    _leave_process_group()


def test(
    config: str,
    checkpoint: str,
    work_dir: str | None = None,
    tta: bool = False,
    out: str | None = None,
    show_dir: str | None = None,
    cfg_options: dict[str, Any] | None = None,
    launcher: str = 'none',
    trust: bool = False,
) -> dict[str, float]:
    """Evaluate a checkpoint on the config's test set.

    Args:
        config (str): Path of the config.
        checkpoint (str): Path or URL of a detector's or segmentor's checkpoint.
        work_dir (str, optional): Where logs go. Defaults as in :func:`train`.
        tta (bool): Multi-scale and flipped test-time augmentation (segmentation). Defaults to
            False.
        out (str, optional): A file for all predictions: ``.npz``
            (:mod:`mambaout_mm.training.prediction_files`), or ``.pkl``, which mmdet's analysis
            tools read. Defaults to None.
        show_dir (str, optional): A folder for pictures of truth and prediction side by side
            (segmentation: in its ``vis_data/vis_image``). Defaults to None.
        cfg_options (dict, optional): Dotted keys and their values, merged last. Defaults to None.
        launcher (str): As in :func:`train`. Defaults to 'none'.
        trust (bool): As in :func:`train`. Defaults to False.

    Returns:
        dict[str, float]: The metrics.

    Raises:
        UserError: For anything that the user can put right; the message says how.
    """
    cfg = checks.load_config(config)
    with checks.config_blamed():
        merge_options(cfg, cfg_options or {})
        cfg.work_dir = work_dir or cfg.get('work_dir') or f'work_dirs/{Path(config).stem}'
        check_values(cfg, 'testing')
        check_parts(cfg)
    if out is not None and not out.endswith(('.npz', '.pkl')):
        raise UserError(f'--out {out!r} must end in .npz or .pkl')
    check_folder(cfg.work_dir, 'the work dir')
    if out:
        check_folder(Path(out).parent, 'the folder of --out')
        if len(os.fsencode(Path(out).name)) > LONGEST_NAME:
            raise UserError(f'the name of --out is longer than {LONGEST_NAME} bytes; shorten it')
        if Path(out).is_dir():
            raise UserError(f'--out {out!r} is a folder; name a file in it')
    if show_dir:
        check_folder(show_dir, '--show-dir')
    detection = cfg.get('default_scope') == 'mmdet'
    if show_dir:
        folder = str(Path(show_dir).absolute())
        if cfg.get('default_hooks') is None:
            cfg.default_hooks = {}
        hooks = cfg.default_hooks  # read again: a Config keeps copies of the dicts it is given
        if detection:  # the hook joins it to the run's folder, which an absolute path replaces
            hooks['visualization'] = dict(
                type='DetVisualizationHook', draw=True, test_out_dir=folder
            )
        else:
            hooks['visualization'] = dict(type='SegVisualizationHook', draw=True, interval=1)
            if not isinstance(cfg.get('visualizer'), dict):
                raise UserError("--show-dir needs the visualizer of the config's _base_")
            cfg.visualizer.save_dir = folder
    if tta:
        _apply_tta(cfg)
    _prepare_launcher(cfg, launcher)
    with (
        whole_files(),
        trusting(trust),
        checkpoints_are_data(),
        _explained(cfg, training=False, options=cfg_options),
    ):
        with checks.config_blamed():
            checks.check_data(cfg, ('test',))
        check_contents(cfg, ('test',))
        runner = build_runner(cfg)
        checks.check_fits(runner.model, checkpoint)
        runner.load_checkpoint(checkpoint)
        if out:
            # In place of MMEngine's DumpResults: masks as run lengths, label maps without logits.
            kind: Any = DumpDetections if out.endswith('.npz') else 'DumpDetResults'
            if not detection:
                kind = DumpSegResults
            dump = METRICS.build(dict(type=kind, out_file_path=out))
            evaluator = runner.test_loop.evaluator
            dump.dataset_meta = evaluator.dataset_meta  # set on the metrics there before
            evaluator.metrics.append(dump)
        metrics = runner.test()
    del runner
    _leave_process_group()
    return metrics


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


def _is_over(plan: dict, meta: dict) -> bool:
    """Whether a checkpoint has all that ``train_cfg`` asks for."""
    epochs, iterations = plan.get('max_epochs'), plan.get('max_iters')
    return (bool(epochs) and meta['epoch'] >= epochs) or (
        bool(iterations) and meta['iter'] >= iterations
    )


def _take_our_parts(cfg: Config) -> None:
    """Put this package's checkpoint hook and loop in the place of MMEngine's."""
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    if hook.get('type') == 'CheckpointHook':
        hook['type'] = 'KeepingCheckpointHook'
    plan = cfg.train_cfg
    by_epoch = plan.get('max_epochs') is not None
    if plan.get('type', 'EpochBasedTrainLoop') == 'EpochBasedTrainLoop' and by_epoch:
        plan.pop('by_epoch', None)
        plan['type'] = 'TakenUpEpochLoop'


def _apply_tta(cfg: Config) -> None:
    if not (isinstance(cfg.get('tta_pipeline'), list) and isinstance(cfg.get('tta_model'), dict)):
        raise UserError(
            '--tta needs tta_model and tta_pipeline in the config. This project has them for '
            'segmentation; mmdet has no test-time augmentation of masks'
        )
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
    cfg.tta_model.module = cfg.model
    cfg.model = cfg.tta_model


def _prepare_launcher(cfg: Config, launcher: str) -> None:
    """Set the launcher; on machines without an accelerator start gloo in place of nccl.

    MMEngine's own start calls ``torch.cuda.set_device``, and its DistributedDataParallel names a
    device; both stop on a CPU.
    """
    cfg.launcher = launcher
    rank = RANKS.get(launcher)
    if rank and rank not in os.environ:
        raise UserError(
            f'--launcher {launcher}: {STARTERS[launcher]} did not start this process (there is no '
            f'{rank} in its environment); start it with {STARTERS[launcher]}, or leave --launcher '
            'out for one process'
        )
    if launcher == 'none' or get_device() != 'cpu':
        return
    if launcher != 'pytorch':
        raise UserError(
            f'--launcher {launcher} needs an accelerator; on CPUs use --launcher pytorch (torchrun)'
        )
    torch.distributed.init_process_group('gloo')
    cfg.model_wrapper_cfg = dict(
        type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False
    )
    # torch's SyncBatchNorm across processes runs on accelerators only.
    synced = [node for _, node in dicts_in(cfg.model) if node.get('type') == 'SyncBN']
    for node in synced:
        node['type'] = 'BN'
    if synced:
        print_log('SyncBN is BN on each process here: CPUs cannot synchronise it', logger='current')


def _leave_process_group() -> None:
    """End what the launcher started, while Python still runs.

    Left to the interpreter's end, gloo's threads now and then abort a process whose work is done
    (pytorch/pytorch PR #179291). A model wrapped for distribution holds the group, hence the
    collection.
    """
    if torch.distributed.is_initialized():
        torch.distributed.barrier()  # nobody hangs up on a slower process
        gc.collect()
        torch.distributed.destroy_process_group()


def _warn_about_batch_size(cfg: Config) -> None:
    recipe = cfg.get('auto_scale_lr') or {}
    total = cfg.train_dataloader.batch_size * get_world_size()
    base = recipe.get('base_batch_size')
    if base and total != base and not recipe.get('enable'):
        print_log(
            f'The batch is {total} images ({get_world_size()} processes of '
            f"{cfg.train_dataloader.batch_size}), the recipe's is {base}. Change "
            'train_dataloader.batch_size or the number of processes, or scale the learning rate '
            'with --cfg-options auto_scale_lr.enable=True',
            logger='current',
            level=30,
        )


@contextmanager
def _explained(
    cfg: Config, training: bool, options: dict[str, Any] | None = None
) -> Iterator[None]:
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
