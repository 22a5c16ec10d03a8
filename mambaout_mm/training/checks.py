"""What can be said about a config before an hour is lost: data, classes, checkpoints, device."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import DATASETS, init_default_scope
from torch import nn

from mambaout_mm.backbones import PyramidBackbone
from mambaout_mm.checkpoints import (
    CheckpointError,
    differences,
    read_checkpoint,
    select,
    unwrap,
)
from mambaout_mm.config_tree import dicts_in
from mambaout_mm.errors import UserError, near_names
from mambaout_mm.literal_config import run_config

from .options import registered

# Reading COCO's 450 MB of training annotations twice would cost half a minute before each run.
LARGE_ANNOTATIONS = 100_000_000

# Heads that predict the data set's classes, one for each.
HEADS = ('bbox_head', 'mask_head', 'decode_head', 'auxiliary_head')


def load_config(path: str) -> Config:
    """Read a config file.

    Raises:
        UserError: If there is no such file, or it cannot be read as a config.
    """
    file = Path(path)
    if not os.path.isfile(file):  # Path.is_file refuses a name that is too long
        siblings = sorted(str(p) for p in file.parent.glob('*.py'))
        if not siblings:
            siblings = sorted(str(p) for p in Path('configs').glob('*/*.py'))
        hint = f'; {near_names(path, siblings)}' if siblings else ''
        raise UserError(f'there is no config {path!r}{hint}')
    cfg = run_config(lambda: Config.fromfile(path), path)
    scope = cfg.get('default_scope', 'mmengine')
    if not isinstance(scope, str):
        raise UserError(
            f'{path} cannot be read as a config: default_scope must be a name, as '
            f"'mmdet', not {scope!r}"
        )
    return cfg


@contextmanager
def errors_are_config_errors() -> Iterator[None]:
    """Report any exception that is raised inside as a mistake in the config.

    A config may hold anything anywhere.

    Raises:
        UserError: As it is, or in place of another error.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or ['no reason is given'])[0]
        raise UserError(
            f'the config cannot be used: {type(error).__name__}: {reason}. A value in it is of '
            'another kind than such configs have; compare it with the configs of mambaout_mm, or '
            'see --debug'
        ) from error


def check_data(cfg: Config, splits: tuple[str, ...]) -> None:
    """Check that the annotation files and image folders of a config are there and fit it.

    Args:
        cfg (Config): The whole config.
        splits (tuple[str, ...]): Of 'train', 'val', 'test'.

    Raises:
        UserError: If a path is missing (one message with all of them), or an annotation file has
            not the config's classes or has them in another order.
    """
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    paths: list[Path | None] = []
    for split in splits:
        for dataset in _datasets(cfg.get(f'{split}_dataloader')):
            root = dataset.get('data_root')
            paths.append(local_path(root, dataset.get('ann_file')))
            prefixes = dict(dataset.get('data_prefix') or {}).values()
            paths += [local_path(root, prefix) for prefix in prefixes]
        evaluator = cfg.get(f'{split}_evaluator') or []
        for metric in evaluator if isinstance(evaluator, list | tuple) else [evaluator]:
            paths.append(local_path(None, metric.get('ann_file')))
    missing = list(dict.fromkeys(path for path in paths if path and not os.path.exists(path)))
    if missing:
        raise UserError(_missing_data_message(missing, demo='train' in splits))
    for split in splits:
        check_split_classes(cfg, split)


def check_split_classes(cfg: Config, split: str, always: bool = False) -> None:
    """:func:`check_classes` for each data set of a split."""
    for dataset in _datasets(cfg.get(f'{split}_dataloader')):
        check_classes(dataset, always)


def local_path(root: str | None, name: str | None) -> Path | None:
    """``name`` below ``root`` as MMEngine joins them; None without one, or if it is not local."""
    if not name or '://' in name:
        return None
    if root and not Path(name).is_absolute():
        return None if '://' in root else Path(root) / name
    return Path(name)


def _missing_data_message(missing: list[Path], demo: bool) -> str:
    lines = '\n'.join(f'  {path.absolute()}' for path in missing)
    known = {('data', 'coco'): 'coco', ('data', 'ade'): 'ade20k'}
    name = known.get(missing[0].parts[:2])
    ways = [
        f'download it with `python tools/prepare_data.py {name}`'
        if name
        else 'put the files there, or change data_root, ann_file and data_prefix in the config'
    ]
    if demo:
        ways.append('or run the same config on an embedded data set with `--demo`')
    return f'the data set is not there; looked for\n{lines}\nTo go on: {"; ".join(ways)}'


def _datasets(node: Any) -> list[dict]:
    """The data sets in a dataset or data loader config, inside wrappers too."""
    return [d for _, d in dicts_in(node) if 'data_prefix' in d or 'ann_file' in d]


def check_classes(dataset: dict, always: bool = False) -> None:
    """Check that a COCO annotation file has the classes of its data set's config.

    mmdet drops every annotation of a class that it does not know and then stops with "need at
    least one array to concatenate"; classes in another order get each other's names.

    Args:
        dataset (dict): A data set's config.
        always (bool): Read large files too. Defaults to False.

    Raises:
        UserError: If classes are missing from the file or in another order there.
    """
    if 'type' not in dataset:
        raise UserError(f'a data set in the config has no type, as CocoDataset: {_start(dataset)}')
    cls = registered(DATASETS, dataset['type'])
    path = local_path(dataset.get('data_root'), dataset.get('ann_file'))
    if path is None or path.suffix != '.json' or not hasattr(cls, 'COCOAPI'):
        return
    if path.stat().st_size > LARGE_ANNOTATIONS and not always:
        return
    wanted = {**cls.METAINFO, **(dataset.get('metainfo') or {})}.get('classes') or ()
    if isinstance(wanted, str):  # to MMEngine a file with a class on each line, or one class
        wanted = Path(wanted).read_text().split('\n') if Path(wanted).is_file() else [wanted]
        wanted = [name.strip() for name in wanted if name.strip()]
    wanted = list(wanted)
    try:
        content = json.loads(path.read_text())
        found = [category['name'] for category in content['categories']]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f'{path} is not a COCO annotation file: {error!r}') from error
    absent = [name for name in wanted if name not in found]
    if absent:
        raise UserError(
            f'{path} has the classes {_some(found)}; the config wants {_some(wanted)}, of which '
            f'{_some(absent)} {"is" if len(absent) == 1 else "are"} not in the file. Set '
            f'metainfo=dict(classes={tuple(found[:3])}{"..." if len(found) > 3 else ""}) in the '
            "config's data sets and num_classes in its heads (docs/custom_data.md)"
        )
    in_order = [name for name in found if name in wanted]
    if in_order != wanted:
        raise UserError(
            f'{path} lists the classes in another order than the config: {_some(in_order)} against '
            f'{_some(wanted)}. mmdet numbers them in the order of the file and names them in that '
            'of the config; give metainfo.classes in the order of the file'
        )


def _start(node: dict) -> str:
    text = str(dict(node))
    return text if len(text) <= 100 else f'{text[:97]}...'


def _some(names: list[str]) -> str:
    shown = ', '.join(map(repr, names[:5]))
    return f'{shown} and {len(names) - 5} more' if len(names) > 5 else shown


def check_num_classes(cfg: Config) -> None:
    """Check that heads predict as many classes as the data set's config names.

    Only the heads of this project's kinds of models are looked at: a panoptic model's semantic
    head, for one, has its own number.

    Raises:
        UserError: If a head's ``num_classes`` differs.
    """
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    dataset = next(iter(_datasets(cfg.get('train_dataloader'))), None)
    cls = registered(DATASETS, dataset.get('type')) if dataset else None
    if cls is None or cls.__name__ == 'CocoPanopticDataset':
        return
    classes = {**cls.METAINFO, **(dataset.get('metainfo') or {})}.get('classes')
    if not classes or isinstance(classes, str):
        return
    for path, head in dicts_in(cfg.get('model'), 'model'):
        # A head may be one of a list: roi_head.bbox_head.0
        name = [part for part in path.split('.') if not part.isdigit()][-1]
        if name in HEADS and head.get('num_classes', len(classes)) != len(classes):
            raise UserError(
                f'{path}.num_classes is {head["num_classes"]}, but the data set has '
                f'{len(classes)} classes ({_some(list(classes))}); set it to {len(classes)}'
            )


def check_amp() -> None:
    """Check that the device can train in mixed precision.

    Raises:
        UserError: On a CPU, and on Apple's GPUs, for which MMEngine has no mixed precision.
    """
    device = get_device()
    if device in ('cpu', 'mps'):
        raise UserError(
            f'--amp needs an accelerator, and PyTorch has only {device} here; leave --amp out, or '
            'run on a machine whose torch.cuda.is_available() is True'
        )


def bare_model(model: nn.Module) -> nn.Module:
    """A model without what distributed training or test-time augmentation wraps around it."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def check_fits(model: nn.Module, checkpoint: str) -> dict[str, Any]:
    """Check that a checkpoint holds exactly this model, as for testing and resuming.

    MMEngine's loader logs what does not fit and goes on with random weights in its place.

    Args:
        model (nn.Module): A detector or segmentor.
        checkpoint (str): Path or URL.

    Returns:
        dict[str, Any]: The state dict.

    Raises:
        CheckpointError: If it does not fit or cannot be read.
    """
    state_dict, _ = unwrap(read_checkpoint(checkpoint))
    model = bare_model(model)
    for name, module in model.named_modules():
        if isinstance(module, PyramidBackbone):
            module.rename_published(state_dict, f'{name}.')
    problems = differences(model.state_dict(), state_dict)
    if problems:
        raise CheckpointError(
            f'checkpoint {checkpoint!r} belongs to another model than this config: {problems}. '
            'Give the config that it was trained with'
        )
    return state_dict


def check_resumable(checkpoint: str) -> dict[str, Any]:
    """Check that a checkpoint says where its training was.

    Args:
        checkpoint (str): Path or URL.

    Returns:
        dict[str, Any]: Its ``meta``, with the numbers of epochs and iterations that are over as
        ``epoch`` and ``iter``, and the training's ``seed``, if it has one.

    Raises:
        CheckpointError: If it cannot be read, or holds weights alone.
    """
    content = read_checkpoint(checkpoint)
    meta = content.get('meta')
    meta = meta if isinstance(meta, dict) else {}
    missing = [f'meta.{key}' for key in ('epoch', 'iter') if not _is_count(meta.get(key))]
    missing += [k for k in ('message_hub', 'optimizer') if not isinstance(content.get(k), dict)]
    if missing:
        raise CheckpointError(
            f'checkpoint {checkpoint!r} has no {", ".join(missing)}, so that a training cannot go '
            'on from it; to start one from its weights, leave --resume out and give --cfg-options '
            f'load_from={checkpoint}'
        )
    return meta


def is_seed(value: Any) -> bool:
    """Whether a checkpoint's ``meta.seed`` can be the seed of a training."""
    return _is_count(value) and value < 2**32


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < sys.maxsize


def check_backbone_fits(model: nn.Module, checkpoint: str) -> None:
    """Check that fine-tuning (``load_from``) finds this model's backbone; heads may differ.

    Args:
        model (nn.Module): A detector or segmentor.
        checkpoint (str): Path or URL of a detector's or segmentor's checkpoint.

    Raises:
        CheckpointError: If the backbone does not fit or the checkpoint cannot be read.
    """
    backbone = getattr(bare_model(model), 'backbone', None)
    if not isinstance(backbone, PyramidBackbone):
        return
    content = read_checkpoint(checkpoint)
    try:
        state_dict, _ = unwrap(content)
        backbone.match_checkpoint(select(state_dict, 'backbone.'))
    except CheckpointError as error:
        raise CheckpointError(
            f'load_from={checkpoint!r} has another backbone than this config: {error}. A '
            'classification file goes to model.backbone.init_cfg.checkpoint instead'
        ) from error
