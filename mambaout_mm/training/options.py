"""`--cfg-options`: changes to a config, refused where nothing would read them."""

import copy
import inspect
from difflib import get_close_matches
from typing import Any

from mmengine.config import Config
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

from mambaout_mm.config_tree import dicts_in
from mambaout_mm.errors import UserError, near_names

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
# Top-level keys of a config that are read without being arguments of the Runner.
RUNNER_KEYS = (
    'activation_checkpointing',
    'auto_scale_lr',
    'compile',
    'custom_imports',
    'efficient_conv_bn_eval',
    'env_cfg',
    'find_unused_parameters',
    'model_wrapper_cfg',
    'sync_bn',
    'tta_model',
    'tta_pipeline',
)


def merge_options(cfg: Config, options: dict[str, Any]) -> None:
    """Apply ``--cfg-options`` in place.

    A key must exist in the config, or be an argument of the class that its dict builds
    (``model.backbone.with_cp=True``), or be read by MMEngine's Runner. Variables that a config
    file only used for itself (``data_root``) are refused too: the values were taken from them when
    the file was read.

    Raises:
        UserError: If a key is none of these; the message names near ones.
    """
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    # With its types: `optimizer.type=SGD optimizer.momentum=0.9` belong together.
    typed = copy.deepcopy(cfg)
    types = {key: value for key, value in options.items() if key.endswith('.type')}
    _merge(typed, types)
    for dotted in options:
        _check_key(typed, dotted)
    _merge(cfg, options)


def _merge(cfg: Config, options: dict[str, Any]) -> None:
    try:
        cfg.merge_from_dict(options)
    except (AttributeError, TypeError, KeyError, IndexError) as error:
        raise UserError(f'--cfg-options cannot be merged into the config: {error}') from error


def _check_key(cfg: Config, dotted: str) -> None:
    node: Any = cfg._cfg_dict
    parts = dotted.split('.')
    _check_top_level(cfg, parts[0], dotted)
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
        if depth == 0:
            return  # a Runner's argument that the config leaves at its default
        arguments, any_keyword = _arguments(node)
        if part in arguments or (any_keyword and not get_close_matches(part, node, cutoff=0.75)):
            return
        wrong = '.'.join(parts[: depth + 1])
        known = [f'{where}.{key}' for key in {*node, *arguments}]
        raise UserError(
            f'--cfg-options {dotted}: nothing reads {wrong!r}; {near_names(wrong, known)}'
        )


def _check_top_level(cfg: Config, key: str, dotted: str) -> None:
    known = {*inspect.signature(Runner.__init__).parameters, *RUNNER_KEYS} - {'self', 'cfg'}
    if key in known:
        return
    if key not in cfg:
        raise UserError(
            f'--cfg-options {dotted}: nothing reads {key!r}; '
            f'{near_names(key, sorted(known & {*cfg, *RUNNER_KEYS}))}'
        )
    leaf = dotted.split('.')[-1]
    places = [
        f'{path}.{leaf}'
        for path, node in dicts_in(cfg._cfg_dict)
        if leaf in node and path.split('.')[0] in known
    ]
    raise UserError(
        f'--cfg-options {dotted}: {key!r} is a variable of the config file, read already'
        + (f'; change {", ".join(places[:6])}' if places else '')
    )


def _arguments(node: dict) -> tuple[list[str], bool]:
    """Arguments of what a dict builds, and whether other keywords may be meant too."""
    built = node.get('type')
    names: list[str] = []
    if isinstance(built, str):
        if registered(PARAM_SCHEDULERS, built):
            names.append('convert_to_iter_based')  # of its build_iter_from_epoch
        built = next(filter(None, (registered(registry, built) for registry in REGISTRIES)), None)
    if not inspect.isclass(built):
        return names, True
    for cls in built.__mro__[:-1]:
        if '__init__' not in vars(cls):
            continue
        parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
        names += [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
        if all(p.kind is not p.VAR_KEYWORD for p in parameters):
            return names, False  # what this class does not name, no base will see
    return names, True


def registered(registry: Registry, name: Any) -> Any:
    """What ``name`` means in the default scope; None if nothing. A class means itself."""
    if not isinstance(name, str):
        return name if inspect.isclass(name) else None
    with registry.switch_scope_and_registry(None) as scoped:
        return scoped.get(name)


def names_in(registry: Registry) -> list[str]:
    """All names in a registry and in those of mmdet, mmseg and this package below it."""
    names = list(registry.module_dict)
    return names + [name for child in registry.children.values() for name in names_in(child)]
