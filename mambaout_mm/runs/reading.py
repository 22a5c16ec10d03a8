"""What MMEngine wrote while it trained: scores, how far it came, seed and processes."""

import json
import math
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config

from mambaout_mm.config_tree import dicts_in
from mambaout_mm.errors import UserError, near_names
from mambaout_mm.files import read_file
from mambaout_mm.literal_config import read_config

NAN = math.nan
# Names in the logs, the chief metric of a task first; mmdet logs fractions, mmseg percent.
METRICS = {
    'coco/bbox_mAP': ('box AP', 100),
    'coco/segm_mAP': ('mask AP', 100),
    'mIoU': ('mIoU', 1),
    'mAcc': ('mAcc', 1),
    'aAcc': ('aAcc', 1),
}
LARGEST_COUNT = 10**12
DICT, COUNT = (dict, 'a dict'), (int, 'a number')
# What is read from the config of a run; MMEngine has them so wherever it trained.
CONFIG_TYPES = {
    'auto_scale_lr': DICT,
    'default_hooks': DICT,
    'default_hooks.logger': DICT,
    'load_from': (str, 'a path'),
    'model': DICT,
    'model.backbone': DICT,
    'optim_wrapper': DICT,
    'optim_wrapper.accumulative_counts': COUNT,
    'optim_wrapper.optimizer': DICT,
    'param_scheduler': (dict | list | tuple, 'a dict or a list'),
    'randomness': DICT,
    'train_cfg': DICT,
    'train_cfg.max_epochs': COUNT,
    'train_cfg.max_iters': COUNT,
    'train_dataloader': DICT,
    'train_dataloader.batch_size': COUNT,
}


class Run(NamedTuple):
    """A training, joined from its start and every resumption.

    Attributes:
        folder (Path): Its ``work_dir``.
        name (str): What tables call it.
        config (Path): The config as MMEngine wrote it at the last resumption.
        cfg (Config): The same, read.
        load_from (str, optional): What the first start fine-tuned.
        validations (dict[int, dict[str, float]]): Scores in percent by epoch or iteration, rising.
        unit (str): 'epoch' or 'iteration'.
        done (int): Epochs or iterations that are over.
        planned (int, optional): How many the config wants.
        seed (int, optional): Of the first start; None if the log does not say.
        processes (int, optional): World size; None if the log does not say.
        note (str): What else a reader has to know.
    """

    folder: Path
    name: str
    config: Path
    cfg: Config
    load_from: str | None
    validations: dict[int, dict[str, float]]
    unit: str
    done: int
    planned: int | None
    seed: int | None
    processes: int | None
    note: str

    @property
    def quantities(self) -> list[str]:
        """Metrics of its validations; of its evaluator if there was none."""
        found = {name for scores in self.validations.values() for name in scores}
        if not found:
            nodes = [node for _, node in dicts_in(self.cfg.get('val_evaluator'))]
            wanted = str([node.get('metric') for node in nodes])
            found = {'box AP', 'mask AP'} if 'segm' in wanted else {'box AP'}
            if any('IoU' in type_of(node) for node in nodes):
                found = {'mIoU'}
        return [name for name, _ in METRICS.values() if name in found]

    @property
    def best(self) -> int | None:
        """When the chief metric was highest, for the first time; None if it never was a number."""
        chief = self.quantities[0]
        scores = {at: s[chief] for at, s in self.validations.items() if s.get(chief, NAN) >= 0}
        return max(scores, key=scores.__getitem__, default=None)

    def final(self, quantity: str) -> float:
        """The last validation's score in percent; NaN if there is none."""
        last = max(self.validations, default=None)
        return self.validations.get(last, {}).get(quantity, NAN)


def read_run(folder: Path, name: str = '') -> Run:
    """Read the work dir of a training.

    MMEngine makes a folder, named by the time, for each start. One with ``resume`` goes on from the
    ones before and replaces what they logged from there on; one without begins anew.

    Args:
        folder (Path): The work dir.
        name (str): What to call the run. Defaults to the folder's name.

    Raises:
        UserError: If it is none, or a log cannot be read.
    """
    if not os.path.isdir(folder):  # Path.is_dir refuses a name that is too long
        siblings = sorted(str(p) for p in folder.parent.glob('*/'))
        hint = f'; {near_names(str(folder), siblings)}' if siblings else ''
        raise UserError(f'there is no run {str(folder)!r}{hint}')
    logs = sorted(folder.glob('*/vis_data/scalars.json'))
    if not logs:
        raise UserError(
            f'{folder} has no log of a training ({folder}/<time>/vis_data/scalars.json); give the '
            'work dir of tools/train.py, such as work_dirs/maskrcnn_mambaout_t'
        )
    starts = [_read_start(log) for log in logs]
    trainings: list[list[_Start]] = []  # starts that go on from each other
    for start in starts:
        if trainings and start.cfg.get('resume'):
            trainings[-1].append(start)
        else:
            trainings.append([start])
    *abandoned, training = trainings
    first, last = training[0], training[-1]
    validations, over = _join(training)
    left = [earlier[0] for earlier in abandoned if _join(earlier)[0]]
    note = f'without {left[-1].log.parts[-3]}: training began anew after it' if left else ''
    load_from = first.cfg.get('load_from')
    if first.cfg.get('resume') and load_from:
        note, load_from = f'its start is not here: it resumed {load_from}', None
    environment = _environment(first.log.parents[1])
    plan = last.cfg.get('train_cfg') or {}
    return Run(
        folder=folder,
        name=name or folder.resolve().name,
        config=last.log.with_name('config.py'),
        cfg=last.cfg,
        load_from=load_from,
        validations=dict(sorted(validations.items())),
        unit='epoch' if last.by_epoch else 'iteration',
        done=max([0, over, *validations]),
        planned=plan.get('max_epochs') or plan.get('max_iters'),
        seed=environment['seed'],
        processes=environment['GPU number'],
        note=note,
    )


class _Start(NamedTuple):
    """What one start of a training left behind.

    Attributes:
        log (Path): Its ``scalars.json``.
        cfg (Config): As MMEngine wrote it beside the log.
        records (list[dict]): The lines of the log.
    """

    log: Path
    cfg: Config
    records: list[dict]

    @property
    def by_epoch(self) -> bool:
        """Whether the training counts epochs; else it counts iterations."""
        return (self.cfg.get('train_cfg') or {}).get('max_epochs') is not None

    @property
    def validations_count_alike(self) -> bool:
        """Whether validations are counted as the training is.

        The logger's default counts them by epoch even where the training counts iterations.
        """
        logger = (self.cfg.get('default_hooks') or {}).get('logger') or {}
        return logger.get('log_metric_by_epoch', True) == self.by_epoch

    def reached(self, record: dict, before: int) -> int:
        """The epoch or iteration of a record of training; ``before`` where it does not say."""
        return record.get('epoch', before) if self.by_epoch else record['step']


def _read_start(log: Path) -> _Start:
    path = log.with_name('config.py')
    cfg = read_config(path)
    _check_types(cfg, path)
    return _Start(log, cfg, _read_lines(log))


def _join(training: list[_Start]) -> tuple[dict[int, dict[str, float]], int]:
    """Scores by epoch or iteration, and how many are over, of starts that go on from each other."""
    validations: dict[int, dict[str, float]] = {}
    reached = 0
    for start in training:
        trained = [record for record in start.records if 'iter' in record]
        if trained:
            begun = start.reached(trained[0], 0)
            # What an earlier start logged from there on is replaced.
            validations = {at: s for at, s in validations.items() if at < begun or not begun}
            reached = 0
        for record in start.records:
            if 'iter' in record:
                reached = start.reached(record, reached)
            else:
                at = record['step'] if start.validations_count_alike else reached
                validations[at] = _scores(record)
    # The last epoch in the log may be unfinished.
    return validations, reached - 1 if training[-1].by_epoch else reached


def _read_lines(path: Path) -> list[dict]:
    """One dict a line; a crash may have cut the last one short."""
    try:
        text = read_file(path)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'{path} is no log of MMEngine: {error}') from error
    lines = text.splitlines()
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            _check_record(record)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            if number == len(lines) and not text.endswith('\n'):
                break
            raise UserError(
                f'{path}, line {number}, is no log entry of MMEngine ({_reason(error)}): '
                f'{line[:60]!r}; mend or delete that line'
            ) from error
        records.append(record)
    return records


def _reason(error: Exception) -> str:
    return 'it has no step' if isinstance(error, KeyError) else str(error)


def _check_record(record: dict) -> None:
    """Check that a line of the log has numbers where they are expected."""
    for name in ('step', 'epoch', 'iter'):
        count = record[name] if name == 'step' else record.get(name, 0)
        if type(count) is not int or not 0 <= count <= LARGEST_COUNT:
            raise ValueError(f'{name} is no count')
    for key, (_, factor) in METRICS.items():
        score = record.get(key, NAN)
        if type(score) not in (int, float) or abs(score) > 100 / factor:
            raise ValueError(f'{key} is no score')


def _check_types(cfg: Config, path: Path) -> None:
    """Check that a config has dicts and numbers where MMEngine's training does."""
    for place, (types, what) in CONFIG_TYPES.items():
        node: Any = cfg
        for key in place.split('.'):
            node = node.get(key) if isinstance(node, dict | Config) else None
        if node is not None and (not isinstance(node, types) or node is True):
            raise UserError(f'{path}: {place} is {repr(node)[:40]}, not {what}')


def _scores(record: dict) -> dict[str, float]:
    return {
        # COCO's -1: no object of the kind
        name: NAN if record[key] < 0 else round(factor * record[key], 4)
        for key, (name, factor) in METRICS.items()
        if key in record
    }


def _environment(start: Path) -> dict[str, int | None]:
    """The seed and the number of processes from the environment that a start's log begins with."""
    logs = [log for log in sorted(start.glob('*.log')) if log.is_file()]
    text = ''.join(log.read_text(errors='replace')[:100_000] for log in logs)
    keys = ('seed', 'GPU number')
    found = {key: re.search(rf'^ +{key}: (\d{{1,18}})$', text, re.M) for key in keys}
    return {key: int(match[1]) if match else None for key, match in found.items()}


def type_of(node: Any) -> str:
    """The type without its scope: mmdet.CocoDataset is CocoDataset; '' if there is none."""
    return str(node.get('type', '')).split('.')[-1] if isinstance(node, dict) else ''
