"""One training or test run: from a config file and flags to MMEngine's Runner."""

import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import get_world_size
from mmengine.logging import print_log
from mmengine.registry import METRICS

from mambaout_mm.checkpoints import checkpoints_are_data
from mambaout_mm.demo import announce, apply_demo, output_into, report
from mambaout_mm.errors import UserError
from mambaout_mm.files import LONGEST_NAME, check_folder
from mambaout_mm.ops import native
from mambaout_mm.ops.torch_versions import FUSED_ON_CPU
from mambaout_mm.trust import trusting

from . import checks
from .checkpoint_files import newest_whole_checkpoint, whole_files
from .data_checks import check_contents
from .failures import build_runner, explained
from .finite_loss import FiniteLossHook
from .interruption import SaveThenStopHook, told_when_stopped
from .launch import leave_process_group, prepare_launcher
from .lock import locked
from .onnx_model import OnnxModel  # noqa: F401  registers it
from .options import merge_options
from .parts import check_parts
from .predictions import DumpDetections, DumpSegResults
from .seeding import SeedIterationsHook, seed_by_place
from .unused_maps import check_distributed
from .values import check_values


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
    with checks.errors_are_config_errors():
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
        if launcher != 'none':
            check_distributed(cfg)
        suffix = '_demo' if demo else ''
        cfg.work_dir = work_dir or cfg.get('work_dir') or f'work_dirs/{Path(config).stem}{suffix}'
        _take_our_parts(cfg)
    prepare_launcher(cfg, launcher)
    saver = SaveThenStopHook(save_on) if save_on else None
    log = Path(cfg.work_dir) / 'output.log'
    with (
        told_when_stopped(saver) as watched,
        locked(cfg.work_dir, launcher),
        output_into(log) if demo else nullcontext() as display,
        whole_files(),
        trusting(trust),
        checkpoints_are_data(),
        explained(cfg, training=True, options=cfg_options),
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
                leave_process_group()
                return
        with checks.errors_are_config_errors():
            checks.check_data(cfg, ('train', 'val'))
            checks.check_num_classes(cfg)
        check_contents(cfg, ('train', 'val'))
        with checks.errors_are_config_errors():
            seed_by_place(cfg)
        runner = watched.runner = build_runner(cfg)
        if cfg.get('load_from') and cfg.get('resume'):
            checks.check_fits(runner.model, cfg.load_from)
        elif cfg.get('load_from'):
            checks.check_backbone_fits(runner.model, cfg.load_from)
        for hook in filter(None, (SeedIterationsHook(), FiniteLossHook(), saver)):
            runner.register_hook(hook)
        if get_device() == 'cpu':
            _say_which_kernels()
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
    leave_process_group()


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
        checkpoint (str): Path, URL or catalogue name of a detector's or segmentor's checkpoint, or
            an ONNX file of tools/export.py.
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
    with checks.errors_are_config_errors():
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
    prepare_launcher(cfg, launcher)
    with (
        whole_files(),
        trusting(trust),
        checkpoints_are_data(),
        explained(cfg, training=False, options=cfg_options),
    ):
        with checks.errors_are_config_errors():
            checks.check_data(cfg, ('test',))
        check_contents(cfg, ('test',))
        onnx = checkpoint.endswith('.onnx')
        if onnx:
            _take_onnx(cfg, checkpoint)
        runner = build_runner(cfg)
        if not onnx:
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
    leave_process_group()
    return metrics


def _take_onnx(cfg: Config, file: str) -> None:
    """Put an ONNX file in the place of the config's model."""
    task = 'detection' if cfg.default_scope == 'mmdet' else 'segmentation'
    cfg.model = dict(type='OnnxModel', file=file, task=task)
    cfg.pop('data_preprocessor', None)  # which MMEngine would hand to it; the graph has its own


def _is_over(plan: dict, meta: dict) -> bool:
    """Whether a checkpoint has all that ``train_cfg`` asks for."""
    epochs, iterations = plan.get('max_epochs'), plan.get('max_iters')
    return (bool(epochs) and meta['epoch'] >= epochs) or (
        bool(iterations) and meta['iter'] >= iterations
    )


def _take_our_parts(cfg: Config) -> None:
    """Put this package's checkpoint hook and loop in the place of MMEngine's.

    And leave the fused step out where PyTorch has none.
    """
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    if hook.get('type') == 'CheckpointHook':
        hook['type'] = 'KeepingCheckpointHook'
    optimizer = (cfg.get('optim_wrapper') or {}).get('optimizer') or {}
    if optimizer.get('fused') and get_device() == 'cpu' and not FUSED_ON_CPU:
        optimizer['fused'] = False  # the same step in several operations
    plan = cfg.train_cfg
    by_epoch = plan.get('max_epochs') is not None
    if plan.get('type', 'EpochBasedTrainLoop') == 'EpochBasedTrainLoop' and by_epoch:
        plan.pop('by_epoch', None)
        plan['type'] = 'ResumableEpochLoop'


def _apply_tta(cfg: Config) -> None:
    if not (isinstance(cfg.get('tta_pipeline'), list) and isinstance(cfg.get('tta_model'), dict)):
        raise UserError(
            '--tta needs tta_model and tta_pipeline in the config. This project has them for '
            'segmentation; mmdet has no test-time augmentation of masks'
        )
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
    cfg.tta_model.module = cfg.model
    cfg.model = cfg.tta_model


def _say_which_kernels() -> None:
    try:
        print_log(f'C kernels: {native.description()}', logger='current')
    except ValueError as error:  # of the environment variable that switches them off
        raise UserError(str(error)) from error


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
