"""What can be said about a config before an hour is lost: data, options, checkpoints, device."""

import inspect
import json
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import (
    DATA_SAMPLERS,
    DATASETS,
    HOOKS,
    LOG_PROCESSORS,
    LOOPS,
    METRICS,
    MODELS,
    OPTIM_WRAPPERS,
    OPTIMIZERS,
    PARAM_SCHEDULERS,
    VISUALIZERS,
    Registry,
    init_default_scope,
)
from mmengine.runner import Runner
from torch import nn

from mambaout_mm.checkpoints import CheckpointError, read_checkpoint
from mambaout_mm.checkpoints.load import unwrap
from mambaout_mm.errors import UserError, near_names

# Reading COCO's 450 MB of training annotations twice would cost half a minute before each run.
LARGE_ANNOTATIONS = 100_000_000

# Where the `type` of a dict in a config may be registered.
REGISTRIES = (
    MODELS,
    DATASETS,
    HOOKS,
    OPTIM_WRAPPERS,
    OPTIMIZERS,
    PARAM_SCHEDULERS,
    LOOPS,
    METRICS,
    VISUALIZERS,
    DATA_SAMPLERS,
    LOG_PROCESSORS,
)


def load_config(path: str) -> Config:
    """Read a config file.

    Raises:
        UserError: If there is no such file, or it cannot be read as a config.
    """
    file = Path(path)
    if not file.is_file():
        siblings = sorted(str(p) for p in file.parent.glob('*.py'))
        if not siblings:
            siblings = sorted(str(p) for p in Path('configs').glob('*/*.py'))
        hint = f'; {near_names(path, siblings)}' if siblings else ''
        raise UserError(f'there is no config {path!r}{hint}')
    try:
        return Config.fromfile(path)
    except (ImportError, SyntaxError, KeyError, TypeError, OSError) as error:
        raise UserError(f'{path} cannot be read as a config: {error}') from error


def merge_options(cfg: Config, options: dict[str, Any]) -> None:
    """Apply ``--cfg-options`` in place, refusing keys that nothing would read.

    A key must exist in the config, or be an argument of the class that its dict builds
    (``model.backbone.with_cp=True``), or of MMEngine's Runner.

    Raises:
        UserError: If a key is none of these; the message names near ones.
    """
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    for dotted in options:
        _check_key(cfg, dotted)
    try:
        cfg.merge_from_dict(options)
    except (TypeError, KeyError, IndexError) as error:
        raise UserError(f'--cfg-options cannot be merged into the config: {error}') from error


def _check_key(cfg: Config, dotted: str) -> None:
    node: Any = cfg._cfg_dict
    parts = dotted.split('.')
    for depth, part in enumerate(parts):
        where = '.'.join(parts[:depth])
        if isinstance(node, list | tuple):
            if not part.isdigit() or int(part) >= len(node):
                raise UserError(
                    f'--cfg-options {dotted}: {where} is a list of {len(node)}; its items are '
                    f'{where}.0 to {where}.{len(node) - 1}'
                )
            node = node[int(part)]
            continue
        if not isinstance(node, dict):
            raise UserError(f'--cfg-options {dotted}: {where} is {node!r} and has no {part!r}')
        if part in node:
            node = node[part]
            continue
        arguments, any_keyword = _arguments_of(node, top_level=depth == 0)
        if part in arguments or (any_keyword and not get_close_matches(part, node, cutoff=0.75)):
            return
        known = [f'{where}.{k}' if where else k for k in {*node, *arguments}]
        wrong = '.'.join(parts[: depth + 1])
        raise UserError(
            f'--cfg-options {dotted}: nothing reads {wrong!r}; {near_names(wrong, known)}'
        )


def _arguments_of(node: dict, top_level: bool) -> tuple[list[str], bool]:
    """Arguments of what a dict builds, and whether other keywords may be meant too."""
    if top_level:
        return list(inspect.signature(Runner.__init__).parameters)[1:], False
    built = node.get('type')
    if isinstance(built, str):
        built = next(filter(None, (registered(registry, built) for registry in REGISTRIES)), None)
    if not inspect.isclass(built):
        return [], True
    names: list[str] = []
    for cls in built.__mro__[:-1]:
        if '__init__' not in vars(cls):
            continue
        parameters = inspect.signature(cls.__init__).parameters.values()
        names += [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
        if all(p.kind is not p.VAR_KEYWORD for p in parameters):
            return names, False  # what this class does not name, no base will see
    return names, True


def registered(registry: Registry, name: str) -> Any:
    """What ``name`` means in the default scope; None if nothing."""
    with registry.switch_scope_and_registry(None) as scoped:
        return scoped.get(name)


def check_data(cfg: Config, splits: tuple[str, ...]) -> None:
    """See that the annotation files and image folders of a config are there and fit it.

    Args:
        cfg (Config): The whole config.
        splits (tuple[str, ...]): Of 'train', 'val', 'test'.

    Raises:
        UserError: If a path is missing (one message with all of them), or an annotation file has
            none of the config's classes.
    """
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    missing: list[Path] = []
    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        for dataset in _datasets(loader.dataset if loader else None):
            missing += [p for p in _paths(dataset) if not p.exists() and p not in missing]
        evaluator = cfg.get(f'{split}_evaluator') or {}
        for metric in evaluator if isinstance(evaluator, list | tuple) else [evaluator]:
            ann_file = metric.get('ann_file')
            if ann_file and not Path(ann_file).exists() and Path(ann_file) not in missing:
                missing.append(Path(ann_file))
    if missing:
        raise UserError(_missing_data_message(cfg, missing))
    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        for dataset in _datasets(loader.dataset if loader else None):
            check_classes(dataset)


def _missing_data_message(cfg: Config, missing: list[Path]) -> str:
    lines = '\n'.join(f'  {path.absolute()}' for path in missing)
    known = {'data/coco': 'coco', 'data/ade': 'ade20k'}
    name = next((n for root, n in known.items() if str(missing[0]).startswith(root)), None)
    fetch = (
        f'download it with `python tools/prepare_data.py {name}`'
        if name
        else 'put the files there, or change data_root, ann_file and data_prefix in the config'
    )
    return (
        f'the data set is not there; looked for\n{lines}\n'
        f'Two ways on: {fetch}; or run the same config on an embedded data set with `--demo`'
    )


def _datasets(node: Any) -> Iterator[dict]:
    """The data sets in a dataset config, inside wrappers too."""
    if isinstance(node, dict):
        if 'data_prefix' in node or 'ann_file' in node:
            yield node
        node = list(node.values())
    if isinstance(node, list | tuple):
        for child in node:
            yield from _datasets(child)


def _paths(dataset: dict) -> list[Path]:
    root = Path(dataset.get('data_root') or '')
    names = [dataset.get('ann_file'), *dict(dataset.get('data_prefix') or {}).values()]
    return [root / name for name in names if name]


def check_classes(dataset: dict, always: bool = False) -> None:
    """See that a COCO annotation file has the classes of its data set's config.

    mmdet drops every annotation of a class that it does not know and then stops with "need at
    least one array to concatenate".

    Args:
        dataset (dict): A data set's config.
        always (bool): Read large files too. Defaults to False.

    Raises:
        UserError: If classes are missing from the file.
    """
    cls = registered(DATASETS, dataset['type'])
    path = Path(dataset.get('data_root') or '') / (dataset.get('ann_file') or '')
    if path.suffix != '.json' or cls is None or not hasattr(cls, 'COCOAPI'):
        return
    if path.stat().st_size > LARGE_ANNOTATIONS and not always:
        return
    metainfo = {**cls.METAINFO, **(dataset.get('metainfo') or {})}
    wanted = metainfo.get('classes') or ()
    wanted = [wanted] if isinstance(wanted, str) else list(wanted)
    try:
        content = json.loads(path.read_text())
        found = [category['name'] for category in content['categories']]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f'{path} is not a COCO annotation file: {error!r}') from error
    absent = [name for name in wanted if name not in found]
    if absent:
        raise UserError(
            f'{path} has the classes {_some(found)}; the config wants {_some(wanted)}, of which '
            f'{_some(absent)} {"is" if len(absent) == 1 else "are"} not in the file. Set '
            f'metainfo=dict(classes={tuple(found[:3])}{"..." if len(found) > 3 else ""}) in the '
            "config's data sets and num_classes in its heads (docs/custom_data.md)"
        )


def _some(names: list[str]) -> str:
    shown = ', '.join(map(repr, names[:5]))
    return f'{shown} and {len(names) - 5} more' if len(names) > 5 else shown


def check_num_classes(cfg: Config) -> None:
    """See that heads predict as many classes as the data set's config names.

    Raises:
        UserError: If a head's ``num_classes`` differs.
    """
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    loader = cfg.get('train_dataloader') or cfg.get('test_dataloader')
    dataset = next(_datasets(loader.dataset if loader else None), None)
    cls = registered(DATASETS, dataset['type']) if dataset else None
    if cls is None:
        return
    classes = {**cls.METAINFO, **(dataset.get('metainfo') or {})}.get('classes')
    if not classes or isinstance(classes, str):
        return

    def heads(node: Any, path: str) -> Iterator[tuple[str, int]]:
        if isinstance(node, dict):
            if isinstance(node.get('num_classes'), int):
                yield path, node['num_classes']
            for key, child in node.items():
                yield from heads(child, f'{path}.{key}')
        elif isinstance(node, list | tuple):
            for k, child in enumerate(node):
                yield from heads(child, f'{path}.{k}')

    for path, count in heads(cfg.model, 'model'):
        if count != len(classes):
            raise UserError(
                f'{path}.num_classes is {count}, but the data set has {len(classes)} classes '
                f'({_some(list(classes))}); set it to {len(classes)}'
            )


def check_amp() -> None:
    """See that the device can train in mixed precision.

    Raises:
        UserError: On a CPU.
    """
    if get_device() == 'cpu':
        raise UserError(
            '--amp needs an accelerator, and PyTorch sees only the CPU here; leave --amp out, or '
            'run on a machine whose torch.cuda.is_available() is True'
        )


def check_fits(model: nn.Module, checkpoint: str, whole: bool) -> None:
    """See that a checkpoint of a detector or segmentor belongs to this model.

    MMEngine's loader logs what does not fit and goes on with random weights in its place.

    Args:
        model (nn.Module): A detector or segmentor.
        checkpoint (str): Path or URL.
        whole (bool): Every key must fit, as for testing and resuming; else only the backbone's, as
            for fine-tuning a model with other heads.

    Raises:
        CheckpointError: If it does not fit or cannot be read.
    """
    state_dict, _ = unwrap(read_checkpoint(checkpoint))
    own = model.state_dict()
    if not whole:
        own = {k: v for k, v in own.items() if k.startswith('backbone.')}
        state_dict = {k: v for k, v in state_dict.items() if k.startswith('backbone.')}
    problems = {
        'missing': [k for k in own if k not in state_dict],
        'unexpected': [k for k in state_dict if k not in own],
        'of another shape': [
            f'{k} {tuple(state_dict[k].shape)} instead of {tuple(own[k].shape)}'
            for k in own
            if k in state_dict and own[k].shape != state_dict[k].shape
        ],
    }
    found = [f'{len(v)} keys {what} ({", ".join(v[:2])}, ...)' for what, v in problems.items() if v]
    if found:
        raise CheckpointError(
            f'checkpoint {checkpoint!r} belongs to another model than this config: '
            f'{"; ".join(found)}. Give the config that it was trained with'
        )
