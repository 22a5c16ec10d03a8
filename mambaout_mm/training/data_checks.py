"""What is wrong in the files of a config's data sets, found before it ends a training."""

import json
import logging
import os
import sys
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import DATASETS, init_default_scope
from rich.progress import track

from mambaout_mm.config_tree import dicts_in
from mambaout_mm.data.coco_file import LARGE_SHARE, check_annotations
from mambaout_mm.data.images import LabelRules, check_shape, image_size, read_label_map
from mambaout_mm.errors import UserError

from . import checks
from .options import registered
from .values import check_kinds

# Images and label maps of a data set that are read before a training: some seconds.
SAMPLE = 100
SHOWN = 20

Item = TypeVar('Item')


@dataclass
class Findings:
    """Sentences about a config's data.

    Args:
        problems (list[str]): What has to be put right.
        warnings (list[str]): What is only worth knowing.
        looked_at (list[str]): What was read.
    """

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    looked_at: list[str] = field(default_factory=list)


def check_contents(cfg: Config, splits: Sequence[str]) -> None:
    """Look into the data before a run: annotation files whole, unless large, and some images.

    What is only worth knowing is logged.

    Args:
        cfg (Config): The whole config, whose paths are there (:func:`.checks.check_data`).
        splits (Sequence[str]): Of 'train', 'val', 'test'.

    Raises:
        UserError: If the run would end on these data, or pass over a mistake in them.
    """
    found = find_problems(cfg, splits, sample=SAMPLE)
    for warning in found.warnings:
        print_log(warning, logger='current', level=logging.WARNING)
    if found.problems:
        more = len(found.problems) - 1
        raise UserError(
            found.problems[0]
            + (f' (and {more} more problem{"s" if more > 1 else ""})' if more else '')
            + '. `python tools/prepare_data.py --check CONFIG` looks at all the data'
        )


def check_whole(config: str) -> bool:
    """Print what is wrong in all the data of a config.

    Args:
        config (str): Path of the config.

    Returns:
        bool: Whether nothing is.

    Raises:
        UserError: If the config cannot be read, files of it are missing, or classes do not fit.
    """
    cfg = checks.load_config(config)
    check_kinds(cfg)
    splits = [split for split in ('train', 'val', 'test') if cfg.get(f'{split}_dataloader')]
    checks.check_data(cfg, tuple(splits))
    for split in splits:
        checks.check_split_classes(cfg, split, always=True)
    checks.check_num_classes(cfg)
    found = find_problems(cfg, splits, large=True)
    for warning in found.warnings:
        print(f'warning: {warning}')
    for problem in found.problems[:SHOWN]:
        print(f'error: {problem}')
    if len(found.problems) > SHOWN:
        print(f'and {len(found.problems) - SHOWN} more')
    count = len(found.problems)
    summary = 'nothing wrong' if not count else f'{count} problem{"s" if count > 1 else ""}'
    print(f'{config}: {summary} in {"; ".join(found.looked_at) or "no data set of a known kind"}')
    return not found.problems


def explain_reading(cfg: Config, splits: Sequence[str], error: Exception) -> None:
    """Say what is wrong with an annotation file that mmdet could not read.

    :func:`check_contents` leaves large files out; after an error in one there is time to look.

    Args:
        cfg (Config): The whole config.
        splits (Sequence[str]): Of 'train', 'val', 'test'.
        error (Exception): What ended the run; nothing is done about errors from elsewhere.

    Raises:
        UserError: If something is wrong with an annotation file.
    """
    names = {frame.name for frame in traceback.extract_tb(error.__traceback__)}
    if names & {'load_data_list', 'createIndex'}:
        found = find_problems(cfg, splits, sample=1, large=True)
        if found.problems:
            raise UserError(found.problems[0]) from error


def find_problems(
    cfg: Config, splits: Sequence[str], sample: int | None = None, large: bool = False
) -> Findings:
    """Look into the data sets of a config; those of other kinds than COCO's and mmseg's are not.

    Args:
        cfg (Config): The whole config, whose paths are there.
        splits (Sequence[str]): Of 'train', 'val', 'test'.
        sample (int, optional): How many images of each data set to read, evenly spread over it.
            Defaults to None: all.
        large (bool): Read large annotation files too. Defaults to False.

    Returns:
        Findings: What was found.
    """
    scope = cfg.get('default_scope', 'mmengine')
    init_default_scope(scope)
    found = Findings()
    files: dict[Path, _Use] = {}
    images = []
    done: list[dict] = []
    for split in splits:
        for dataset in checks._datasets(cfg.get(f'{split}_dataloader')):
            if dataset in done or not _is_local(dataset):
                continue  # a test set is often the validation set
            done.append(dataset)
            cls = registered(DATASETS, dataset['type'])
            path = checks.local_path(dataset.get('data_root'), dataset.get('ann_file'))
            if path is not None and _is_coco(cls):
                use = files.setdefault(path, _Use())
                loader = _transform(dataset, 'LoadAnnotations') or {}
                use.masks |= bool(loader.get('with_mask'))
                images.append((path, dataset))
            elif scope == 'mmseg' and hasattr(cls, 'get_label_map'):
                _check_segmentation(dataset, sample, found)
        for metric in _metrics(cfg.get(f'{split}_evaluator')):
            path = checks.local_path(None, metric.get('ann_file'))
            if path is not None and metric['type'].split('.')[-1] == 'CocoMetric':
                use = files.setdefault(path, _Use())
                use.evaluated = True
                use.masks |= 'segm' in metric.get('metric', 'bbox')
    for path, use in files.items():
        if not large and path.stat().st_size > checks.LARGE_ANNOTATIONS:
            continue
        content = _read_json(path)
        problems, warnings = check_annotations(path, content, use.masks, use.evaluated)
        found.problems += problems
        found.warnings += warnings
        for other, dataset in images:
            if other == path and isinstance(content, dict):
                _check_coco_images(path, content, dataset, sample, found)
    found.problems = list(dict.fromkeys(found.problems))
    return found


@dataclass
class _Use:
    """What an annotation file is read for."""

    masks: bool = False
    evaluated: bool = False


def _is_local(dataset: dict) -> bool:
    backend = (dataset.get('backend_args') or {}).get('backend', 'local')
    prefixes = dict(dataset.get('data_prefix') or {}).values()
    places = [dataset.get('data_root'), dataset.get('ann_file'), *prefixes]
    return backend == 'local' and not any('://' in str(place) for place in places)


def _is_coco(cls: type) -> bool:
    """Whether a data set reads its file as mmdet's CocoDataset does; LVIS, for one, does not."""
    bases = getattr(cls, '__mro__', ())
    coco = next((base for base in bases if base.__name__ == 'CocoDataset'), None)
    own = ('load_data_list', 'parse_data_info')
    return coco is not None and all(getattr(cls, name) is getattr(coco, name) for name in own)


def _metrics(evaluator: Any) -> list[dict]:
    metrics = evaluator if isinstance(evaluator, list | tuple) else [evaluator]
    return [metric for metric in metrics if metric]


def _transform(dataset: dict, name: str) -> dict | None:
    """The transform of a name in a data set's pipeline, inside of others too."""
    transforms = (node for _, node in dicts_in(dataset.get('pipeline')))
    found = (node for node in transforms if str(node.get('type')).split('.')[-1] == name)
    return next(found, None)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f'{path} is not a COCO annotation file: {error}') from error


def _check_coco_images(
    path: Path, content: dict, dataset: dict, sample: int | None, found: Findings
) -> None:
    root, prefix = dataset.get('data_root'), (dataset.get('data_prefix') or {}).get('img')
    folder = checks.local_path(root, prefix) or Path(root or '')
    images = _used_images(content, dataset)
    paths = [folder / image['file_name'] for image in images]
    there = _existing(paths, f'named in {path}', found)
    readable = _transform(dataset, 'LoadImageFromFile') is not None
    entries = [(image, p) for image, p in zip(images, paths, strict=True) if p in there]
    looked_at = _spread(entries, sample) if readable else []
    for image, image_path in _shown(looked_at, sample, f'images of {path.name}'):
        try:
            width, height = image_size(image_path)
        except UserError as error:
            found.problems.append(str(error))
            continue
        said = image.get('width'), image.get('height')
        if said != (width, height):
            found.problems.append(
                f'{image_path} is {width}x{height} pixels, but {path} says {said[0]}x{said[1]} '
                f'(image {image["id"]!r}); correct width and height there, and see that boxes and '
                'masks fit'
            )
    found.looked_at.append(f'{path} with {len(looked_at)} of {len(images)} images')


def _list_in(content: dict, key: str) -> list:
    return content[key] if isinstance(content.get(key), list) else []


def _used_images(content: dict, dataset: dict) -> list[dict]:
    """The images of an annotation file that mmdet will load."""
    images = [
        image
        for image in _list_in(content, 'images')
        if isinstance(image, dict) and isinstance(image.get('file_name'), str) and 'id' in image
    ]
    filtered = dataset.get('filter_cfg') or {}
    if filtered.get('filter_empty_gt') and not dataset.get('test_mode'):
        annotations = _list_in(content, 'annotations')
        used = {repr(a.get('image_id')) for a in annotations if isinstance(a, dict)}
        images = [image for image in images if repr(image['id']) in used]
    indices = dataset.get('indices')
    if indices is None:
        return images
    if isinstance(indices, int):
        return images[:indices] if indices >= 0 else images[indices:]
    beyond = [index for index in indices if not -len(images) <= index < len(images)]
    if beyond:
        raise UserError(
            f'the indices of a data set ask for image {beyond[0]}, but it has {len(images)}, from '
            f'0 to {len(images) - 1}'
        )
    return [images[index] for index in indices]


def _check_segmentation(dataset: dict, sample: int | None, found: Findings) -> None:
    try:
        built = DATASETS.build(
            {**dataset, 'pipeline': [], 'lazy_init': True, 'serialize_data': False}
        )
        built.full_init()
    except (AssertionError, KeyError, TypeError, ValueError, OSError) as error:
        raise UserError(
            f'the data set of type {dataset["type"]!r} in {dataset.get("data_root")!r} cannot be '
            f'built: {error}'
        ) from error
    folder = built.data_prefix.get('img_path')
    if not built.data_list:
        found.problems.append(
            f'{folder} has no image whose name ends in {built.img_suffix!r}; set img_suffix or '
            "data_prefix.img_path in the config's data sets"
        )
        return
    loader = _transform(dataset, 'LoadAnnotations')
    pairs = [(Path(d['img_path']), d.get('seg_map_path')) for d in built.data_list]
    if loader and pairs[0][1] is None:
        found.problems.append(
            f'the data set of {folder} has no data_prefix.seg_map_path, but its pipeline loads '
            'label maps; add it to the config'
        )
        loader = None
    there = _existing([image for image, _ in pairs], 'listed by the data set', found)
    if loader:
        there |= _existing(
            [Path(labels) for _, labels in pairs],
            'wanted beside the image of the same name (seg_map_suffix and data_prefix.seg_map_path '
            'in the config say where)',
            found,
        )
    readable = _transform(dataset, 'LoadImageFromFile') is not None
    backend = (loader or {}).get('imdecode_backend', 'pillow')
    rules = LabelRules.of(built)
    looked_at = _spread([pair for pair in pairs if pair[0] in there], sample)
    empty = []
    for image, labels in _shown(looked_at, sample, f'images of {folder}'):
        try:
            size = image_size(image) if readable else None
        except UserError as error:
            found.problems.append(str(error))
            size = None
        if not loader or Path(labels) not in there:
            continue
        try:
            label_map = read_label_map(Path(labels), backend)
            check_shape(label_map, size, labels)
            if rules and not rules.check_file(label_map, labels):
                empty.append(labels)
        except UserError as error:
            found.problems.append(str(error))
    if empty and len(empty) >= LARGE_SHARE * len(looked_at):
        found.warnings.append(
            f'{len(empty)} of the {len(looked_at)} label maps looked at in '
            f'{built.data_prefix["seg_map_path"]} have ignored pixels only, as {empty[0]}: nothing '
            'is learnt of them'
        )
    found.looked_at.append(f'{folder} with {len(looked_at)} of {len(pairs)} images')


def _existing(paths: Iterable[Path], whose: str, found: Findings) -> set[Path]:
    """The files that exist. Each folder is listed once."""
    names: dict[Path, set[str]] = {}
    there, missing = set(), []
    for path in paths:
        if path.parent not in names:
            inside = os.listdir(path.parent) if path.parent.is_dir() else ()
            names[path.parent] = set(inside)
        # A folder may not care for capitals
        if path.name in names[path.parent] or os.path.exists(path):
            there.add(path)
        else:
            missing.append(path)
    if missing:
        count = len(missing)
        found.problems.append(
            f'{missing[0]} {f"and {count - 1} other files are" if count > 1 else "is"} not there, '
            f'but {whose}; put {"them" if count > 1 else "it"} there'
        )
    return there


def _spread(items: Sequence[Item], count: int | None) -> Sequence[Item]:
    """``count`` of the items, evenly spread; all if there are no more, or for None."""
    if count is None or len(items) <= count:
        return items
    return [items[i * len(items) // count] for i in range(count)]


def _shown(items: Sequence[Item], sample: int | None, what: str) -> Iterable[Item]:
    """The items, with a bar on the screen where it may be long."""
    silent = sample is not None or not sys.stdout.isatty()
    return track(items, what, transient=True, disable=silent)
