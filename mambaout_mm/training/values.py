"""Values of a config that nothing could work with, told before anything is built."""

import fnmatch
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from mmengine.config import Config
from mmengine.registry import OPTIMIZERS, init_default_scope

from mambaout_mm.config_tree import dicts_in
from mambaout_mm.errors import UserError, near_names

from .options import names_in, registered

# What MMEngine's Runner needs to do each.
NEEDS = dict(
    training=('model', 'train_dataloader', 'train_cfg', 'optim_wrapper'),
    testing=('model', 'test_dataloader', 'test_evaluator', 'test_cfg'),
)


class Kind(NamedTuple):
    """What the values at some places of a config may be, numbers aside.

    Attributes:
        places (str): Dotted path with ``*`` for anything.
        types (tuple[type, ...]): Of the values.
        words (str): The same for messages.
        items (tuple[type, ...]): Of what is in a list. Defaults to anything.
        values (tuple[type, ...]): Of what is under the keys of a dict. Defaults to anything.
    """

    places: str
    types: tuple[type, ...]
    words: str
    items: tuple[type, ...] = (object,)
    values: tuple[type, ...] = (object,)

    def allows(self, value: Any) -> bool:
        """Whether a value is right."""
        if not isinstance(value, self.types) or isinstance(value, bool):
            return False
        if isinstance(value, dict):
            return all(isinstance(one, self.values) for one in value.values())
        return not isinstance(value, LIST) or all(isinstance(one, self.items) for one in value)


NONE, LIST = type(None), (list, tuple)
KINDS = (
    Kind('model', (dict, NONE), 'a dict'),
    Kind('model.backbone', (dict, NONE), 'a dict'),
    Kind('*_dataloader', (dict, NONE), 'a dict'),
    Kind('train_cfg', (dict, NONE), 'a dict'),
    Kind('val_cfg', (dict, NONE), 'a dict'),
    Kind('test_cfg', (dict, NONE), 'a dict'),
    Kind('env_cfg', (dict, NONE), 'a dict'),
    Kind('optim_wrapper', (dict, NONE), 'a dict'),
    Kind('optim_wrapper.optimizer', (dict, NONE), 'a dict'),
    Kind('default_hooks', (dict, NONE), 'a dict'),
    Kind('default_hooks.checkpoint', (dict, NONE), 'a dict'),
    Kind('default_hooks.logger', (dict, NONE), 'a dict'),
    Kind('randomness', (dict, NONE), 'a dict'),
    Kind('visualizer', (dict, NONE), 'a dict'),
    Kind('param_scheduler', (dict, *LIST, NONE), 'a dict or a list of dicts', (dict,)),
    Kind('custom_hooks', (dict, *LIST, NONE), 'a dict or a list of dicts', (dict,)),
    Kind('*_evaluator', (dict, *LIST, NONE), 'a dict or a list of dicts', (dict,)),
    Kind('default_scope', (str,), "a name, as 'mmdet'"),
    Kind('work_dir', (str, NONE), 'the path of a folder or None'),
    Kind('load_from', (str, NONE), 'the path or URL of a checkpoint or None'),
    Kind('*.type', (str, type, Callable), 'the name of a class'),
    Kind('model.data_preprocessor', (dict,), 'a dict'),
    Kind('model*.init_cfg', (dict, *LIST, NONE), 'a dict, a list of dicts or None', (dict,)),
    Kind('model.neck', (dict, *LIST, NONE), 'a dict, a list of dicts or None', (dict,)),
    Kind('model*.anchor_generator', (dict,), 'a dict'),
    Kind('model*.anchor_generator.strides', LIST, 'a list'),
    Kind('model*.featmap_strides', LIST, 'a list'),
    Kind('model*.in_index', (int, *LIST), 'a whole number or a list of them', (int,)),
    Kind('model*.in_channels', (int, *LIST, NONE), 'a whole number or a list of them', (int,)),
    Kind('*_dataloader.dataset', (dict,), 'a dict'),
    Kind('train_dataloader.sampler', (dict,), 'a dict'),
    Kind('*_dataloader.dataset*.data_root', (str, NONE), 'the path of a folder or None'),
    Kind('*_dataloader.dataset*.ann_file', (str, NONE), 'the path of a file or None'),
    Kind('*_evaluator*.ann_file', (str, NONE), 'the path of a file or None'),
    Kind('*_evaluator*.metric', (str, *LIST, NONE), 'a name or a list of names', (str,)),
    Kind('*_dataloader.dataset*.data_prefix', (dict, NONE), 'a dict of paths', values=(str, NONE)),
    Kind('*_dataloader.dataset*.metainfo', (dict, NONE), 'a dict'),
    Kind('*_dataloader.dataset*.metainfo.classes', (str, *LIST), 'a list of names', (str,)),
    Kind('*_dataloader.dataset*.filter_cfg', (dict, NONE), 'a dict'),
    Kind('*_dataloader.dataset*.backend_args', (dict, NONE), 'a dict'),
    Kind(
        '*_dataloader.dataset*.indices',
        (int, *LIST, NONE),
        'a whole number or a list of them',
        (int,),
    ),
    Kind('*_dataloader.dataset*.pipeline', LIST, 'a list of dicts', (dict,)),
)


class Number(NamedTuple):
    """What the numbers at some places of a config may be.

    Attributes:
        places (str): Dotted path with ``*`` for anything.
        low (float): The least.
        high (float): The greatest. Defaults to infinity.
        whole (bool): Whether only integers are right. Defaults to True.
        others (tuple): Values that have a meaning of their own. Defaults to (None,).
        above (bool): Whether ``low`` itself is too little. Defaults to False.
        below (bool): Whether ``high`` itself is too much. Defaults to False.
    """

    places: str
    low: float
    high: float = math.inf
    whole: bool = True
    others: tuple = (None,)
    above: bool = False
    below: bool = False

    def allows(self, value: Any) -> bool:
        """Whether a value is right."""
        if value in self.others and not isinstance(value, bool):
            return True
        kinds = int if self.whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not math.isfinite(value):
            return False
        return not (
            value < self.low
            or value > self.high
            or (self.above and value == self.low)
            or (self.below and value == self.high)
        )

    def __str__(self) -> str:
        kind = 'a whole number' if self.whole else 'a number'
        low = f'{"above" if self.above else "from"} {self.low:g}'
        if math.isinf(self.high):
            return f'{kind} {low}'
        return f'{kind} {low} to {"below " if self.below else ""}{self.high:g}'


NUMBERS = (
    Number('*_dataloader.batch_size', 1, others=()),
    Number('*_dataloader.num_workers', 0, others=()),
    Number('*_dataloader.prefetch_factor', 1),
    Number('train_cfg.max_epochs', 1),
    Number('train_cfg.max_iters', 1),
    Number('train_cfg.val_interval', 1),
    Number('train_cfg.val_begin', 0),
    Number('optim_wrapper.optimizer.lr', 0, whole=False, others=()),
    Number('optim_wrapper.optimizer.weight_decay', 0, whole=False, others=()),
    Number('optim_wrapper.accumulative_counts', 1, others=()),
    Number('optim_wrapper.clip_grad.max_norm', 0, whole=False, above=True),
    Number('param_scheduler.*.begin', 0, others=()),
    Number('param_scheduler.*.end', 1),
    Number('param_scheduler.*.start_factor', 0, 1, whole=False, others=()),
    Number('param_scheduler.*.gamma', 0, whole=False, others=()),
    Number('param_scheduler.*.eta_min', 0, whole=False),
    Number('default_hooks.checkpoint.interval', 1, others=(-1,)),
    Number('default_hooks.checkpoint.max_keep_ckpts', 1, others=(-1,)),
    Number('default_hooks.logger.interval', 1, others=()),
    Number('auto_scale_lr.base_batch_size', 1),
    Number('randomness.seed', 0, 2**32 - 1),
    Number('model*.drop_path_rate', 0, 1, whole=False, others=(), below=True),
    Number('model*.num_classes', 1, others=()),
    Number('model.data_preprocessor.pad_size_divisor', 1, others=()),
    Number('model*.loss_weight', 0, whole=False),
    Number('model*.dropout_ratio', 0, 1, whole=False),
    Number('model.test_cfg*.score_thr', 0, 1, whole=False),
    Number('model.test_cfg*.max_per_img', 1, others=(-1,)),
    Number('model*.iou_threshold', 0, 1, whole=False),
)


def check_values(cfg: Config, doing: str) -> None:
    """Check that a config has the parts that a run needs, and numbers that can be used.

    Args:
        cfg (Config): The whole config, with its options.
        doing (str): 'training' or 'testing'.

    Raises:
        UserError: If a part is missing or no dict, or a number is out of its range; the message
            names all of them.
    """
    missing = [key for key in NEEDS[doing] if cfg.get(key) is None]
    if missing:
        raise UserError(
            f'the config has no {", ".join(missing)}, which {doing} needs; take one of configs/ as '
            '_base_'
        )
    wrong = list(_bad_values(cfg))
    wrong += [] if wrong else _endless(cfg)
    if doing == 'training' and not wrong:
        wrong += _no_optimizer(cfg)
    if doing == 'training' and not wrong:
        wrong += _no_length(cfg)
    if wrong:
        raise UserError(f'the config cannot be used: {"; ".join(wrong)}')


def check_kinds(cfg: Config) -> None:
    """Check that what is read of a config to check its data has the right types.

    Args:
        cfg (Config): The whole config.

    Raises:
        UserError: If anything has not; the message names all of it.
    """
    wrong = list(_bad_values(cfg))
    if wrong:
        raise UserError(f'the config cannot be used: {"; ".join(wrong)}')


def _bad_values(cfg: Config) -> Iterator[str]:
    for path, node in dicts_in(cfg._cfg_dict):
        for key, value in node.items():
            place = f'{path}.{key}' if path else str(key)
            for rule in (*KINDS, *NUMBERS):
                if fnmatch.fnmatchcase(place, rule.places) and not rule.allows(value):
                    wanted = rule.words if isinstance(rule, Kind) else rule
                    yield f'{place} must be {wanted}, not {_short(value)}'


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f'{text[:57]}...'


def _endless(cfg: Config) -> Iterator[str]:
    """Passes over data that would not end, without a word."""
    plan = cfg.get('train_cfg') or {}
    by_epoch = plan.get('max_epochs') is not None
    for split in ('train', 'val', 'test') if by_epoch else ('val', 'test'):
        sampler = (cfg.get(f'{split}_dataloader') or {}).get('sampler') or {}
        if str(sampler.get('type')).split('.')[-1] == 'InfiniteSampler':
            yield (
                f'{split}_dataloader.sampler is an InfiniteSampler, which never ends; write '
                'DefaultSampler'
            )


def _no_length(cfg: Config) -> Iterator[str]:
    plan = cfg.train_cfg
    lengths = [plan.get('max_epochs'), plan.get('max_iters')]
    if plan.get('type') is None and (lengths[0] is None) == (lengths[1] is None):
        yield 'train_cfg must have one of max_epochs and max_iters'


def _no_optimizer(cfg: Config) -> Iterator[str]:
    """MMEngine does not say which name it lacks here."""
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    name = (cfg.optim_wrapper.get('optimizer') or {}).get('type')
    if isinstance(name, str) and registered(OPTIMIZERS, name) is None:
        yield f'there is no optimizer {name!r}; {near_names(name, names_in(OPTIMIZERS))}'
