"""In what the recipes of runs differ, in words."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from mmengine.config import Config

from mambaout_mm.config_tree import dicts_in

from .reading import Run, type_of

# Keys that change how fast a run is or how it looks, not what it learns.
WITHOUT_EFFECT = {
    'backend_args', 'foreach', 'fused', 'meta_keys', 'num_workers', 'palette',
    'persistent_workers', 'pin_memory', 'prefetch_factor', 'with_cp',
}  # fmt: skip
STANDARD_HOOKS = {
    'checkpoint', 'logger', 'param_scheduler', 'runtime_info', 'sampler_seed', 'timer',
    'visualization',
}  # fmt: skip
SPAN = ('begin', 'by_epoch', 'end')
ORDER = ' (order)'  # behind the path of a list of what builds something
OTHER_KEYS = ('custom_hooks', 'efficient_conv_bn_eval', 'sync_bn', 'val_cfg')

ASPECTS = (
    'precision', 'total batch', 'optimizer', 'schedule', 'data', 'initialisation', 'drop path',
    'seed', 'model', 'other',
)  # fmt: skip


class Difference(NamedTuple):
    """One aspect in which recipes differ.

    Attributes:
        aspect (str): One of ``ASPECTS``.
        where (str): Dotted path in the config; in lists ``type`` stands for the number. Empty
            where the aspect as a whole is in words.
        values (tuple[str, ...]): Of each run, in their order.
    """

    aspect: str
    where: str
    values: tuple[str, ...]


def recipe_differences(runs: Sequence[Run]) -> list[Difference]:
    """In what the recipes of some runs differ.

    Work dirs, logging, pictures, workers, and checkpointing (of weights and of activations) change
    no result and are left out.

    Args:
        runs (Sequence[Run]): Two or more.

    Returns:
        list[Difference]: What is not the same in all runs, in the order of the aspects above.
    """
    spoken, trees = zip(*((_in_words(run), _rest(run.cfg)) for run in runs), strict=True)
    found = []
    for aspect in ASPECTS:
        said = [words.get(aspect, []) for words in spoken]
        if any(words != said[0] for words in said):
            common = set(said[0]).intersection(*said[1:])
            own = ([word for word in words if word not in common] for words in said)
            values = tuple('; '.join(words) or 'not set' for words in own)
            found.append(Difference(aspect, '', values))
        parts = [tree.get(aspect, {}) for tree in trees]
        for where, nodes in _differing(parts):
            kind = 'initialisation' if '.init_cfg' in where else aspect
            found.append(Difference(kind, where, tuple(map(_short, nodes))))
    return sorted(found, key=lambda difference: ASPECTS.index(difference.aspect))


def _in_words(run: Run) -> dict[str, list[str]]:
    """The aspects that take a few words."""
    cfg = run.cfg
    wrapper = cfg.get('optim_wrapper') or {}
    precision = type_of(wrapper)
    if precision == 'AmpOptimWrapper':
        scale = wrapper.get('loss_scale', 'dynamic')
        precision = f'AMP ({wrapper.get("dtype") or "float16"}, loss scale {scale})'
    each = (cfg.get('train_dataloader') or {}).get('batch_size')
    steps = wrapper.get('accumulative_counts', 1)
    accumulated = f' x {steps} accumulated' if steps > 1 else ''
    if each and run.processes:
        total = each * run.processes * steps
        batch = f'{total} ({each} x {run.processes} processes{accumulated})'
    else:
        batch = f'{each} a process{accumulated}; the log does not say how many processes'
    optimizer = _arguments(wrapper.get('optimizer') or {})
    scaling = cfg.get('auto_scale_lr') or {}
    if scaling.get('enable'):
        optimizer.append(f'lr scaled from a batch of {scaling.get("base_batch_size")}')
    schedulers = cfg.get('param_scheduler') or []
    schedulers = schedulers if isinstance(schedulers, list | tuple) else [schedulers]
    model = cfg.get('model') or {}
    initial_nodes = dicts_in((model.get('backbone') or {}).get('init_cfg'))  # one, or a list
    initial = next((n['checkpoint'] for _, n in initial_nodes if 'checkpoint' in n), 'random')
    initial = f'whole model {run.load_from}' if run.load_from else f'backbone {initial}'
    rates = {str(n['drop_path_rate']) for _, n in dicts_in(model) if 'drop_path_rate' in n}
    return {
        'precision': ['fp32' if precision == 'OptimWrapper' else precision],
        'total batch': [batch],
        'optimizer': optimizer,
        'schedule': [f'{run.planned} {run.unit}s', *map(_scheduler, schedulers)],
        'initialisation': [initial],
        'drop path': [', '.join(sorted(rates)) or 'not set'],
        'seed': ['not in the log' if run.seed is None else str(run.seed)],
    }


def _rest(cfg: Config) -> dict[str, dict]:
    """By aspect, what of a config has an effect and is not in words."""
    wrapper = _without(cfg.get('optim_wrapper'), {'accumulative_counts', 'dtype', 'loss_scale'})
    model = _without(cfg.get('model'), {'drop_path_rate'})
    (model.get('backbone') or {}).pop('init_cfg', None)
    hooks = _without(cfg.get('default_hooks'), STANDARD_HOOKS)
    loaders = ('train_dataloader', 'val_dataloader', 'val_evaluator')
    data = {key: _without(cfg.get(key), set()) for key in loaders}
    (data['train_dataloader'] or {}).pop('batch_size', None)
    return {
        'optimizer': {
            'optim_wrapper': {k: v for k, v in wrapper.items() if k not in ('type', 'optimizer')}
        },
        'schedule': {
            'train_cfg': _without(
                cfg.get('train_cfg'), {'by_epoch', 'max_epochs', 'max_iters', 'type'}
            )
        },
        'data': data,
        'model': {'model': model},
        'other': {
            **{key: _without(cfg.get(key), set()) for key in OTHER_KEYS},
            'default_hooks': hooks,
            'randomness': _without(cfg.get('randomness'), {'seed'}),
        },
    }


def _without(node: Any, keys: set[str]) -> Any:
    """A copy without these keys, those without effect, those that are None, and types' scopes.

    What :func:`mambaout_mm.training.seeding.seed_by_place` puts into a run's config changes no
    recipe, and runs before it had none: it is left out, too.
    """
    if isinstance(node, dict) and type_of(node) == 'SeededSampler':
        return _without(node.get('sampler'), keys)
    if isinstance(node, dict):
        left = {k: v for k, v in node.items() if k not in keys | WITHOUT_EFFECT and v is not None}
        return {k: type_of(node) if k == 'type' else _without(v, keys) for k, v in left.items()}
    if isinstance(node, list | tuple):
        kept = [n for n in node if not (isinstance(n, dict) and type_of(n) == 'SeedAugmentation')]
        return [_without(child, keys) for child in kept]
    return {} if node is None else node


def _differing(trees: list) -> Iterator[tuple[str, list]]:
    """Where trees differ: dotted path, and the node of each tree there; None where it is missing.

    If types differ, or a part is missing in a run, only that is told, not the keys inside of it.
    """
    flat = [dict(_flat(tree)) for tree in trees]
    whole: list[str] = []
    for path in dict.fromkeys(itertools.chain(*flat)):
        nodes = [tree.get(path) for tree in flat]
        if path.startswith(tuple(whole)):
            continue
        if path.endswith(ORDER):
            orders = [order or [] for order in nodes]
            if any(o != orders[0] and sorted(o) == sorted(orders[0]) for o in orders):
                yield path, [', '.join(order) for order in orders]
        elif any(map(type_of, nodes)):
            if len(set(map(type_of, nodes))) > 1:
                yield path, nodes
                whole.append(f'{path}.')
        elif any(node != nodes[0] for node in nodes):
            yield path, nodes


def _flat(node: Any, path: str = '') -> Iterator[tuple[str, Any]]:
    """The values in a tree by dotted path; what builds something is under its own path, too."""
    if node is None or node == {} or node == []:
        return
    named = _by_type(node)
    if named is not None:
        yield f'{path}{ORDER}', list(named)
        node = named
    elif not isinstance(node, dict) or 'type' in node:
        yield path, node
    if isinstance(node, dict):
        for key, child in node.items():
            yield from _flat(child, f'{path}.{key}' if path else str(key))


def _by_type(node: Any) -> dict[str, dict] | None:
    """A list of dicts that build something, such as transforms, by their type; else None."""
    if not isinstance(node, list) or not all(isinstance(n, dict) and 'type' in n for n in node):
        return None
    named: dict[str, dict] = {}
    for child in node:
        name = type_of(child)
        number = sum(key.split(' ')[0] == name for key in named) + 1
        named[name if number == 1 else f'{name} {number}'] = child
    return named


def _arguments(node: dict) -> list[str]:
    """Type and arguments of a dict that builds something."""
    rest = _without(node, {'type'})
    return [
        type_of(node),
        *(f'{key} {_short(value)}' for key, value in sorted(rest.items(), key=str)),
    ]


def _scheduler(node: dict) -> str:
    """As in 'MultiStepLR over epochs 0 to 12, gamma 0.1, milestones [8, 11]'."""
    name, *rest = _arguments({k: v for k, v in node.items() if k not in SPAN})
    unit = 'epochs' if node.get('by_epoch', True) else 'iterations'
    span = f'{name} over {unit} {node.get("begin", 0)} to {node.get("end", "the last")}'
    return ', '.join([span, *rest])


def _short(node: Any) -> str:
    if node is None:
        return 'not set'
    if isinstance(node, dict) and 'type' in node:
        return f'{type_of(node)} {node.get("arch", "")}'.strip()
    text = str(node)
    return text if len(text) <= 60 else f'{text[:57]}...'


def group_by_recipe(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Runs that differ in the seed alone, by a name for them."""
    groups: list[list[Run]] = []
    for run in runs:
        for group in groups:
            if all(d.aspect == 'seed' for d in recipe_differences([group[0], run])):
                group.append(run)
                break
        else:
            groups.append([run])
    return {' + '.join(run.name for run in group): group for group in groups}
