"""Whether a COCO annotation file has what mmdet and COCO's evaluation will ask of it."""

import math
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

SHOWN = 3
LARGE_SHARE = 0.1  # of annotations that mmdet leaves out, from which on somebody should know
MIN_POLYGON = 6  # numbers: three points
# Of a file: what an entry is called, and what each needs
LISTS = {
    'images': ('image', ('id', 'file_name', 'height', 'width')),
    'annotations': ('annotation', ('id', 'image_id', 'category_id')),
    'categories': ('category', ('id', 'name')),
}


def check_annotations(
    path: Path, content: Any, masks: bool, evaluated: bool
) -> tuple[list[str], list[str]]:
    """Look for what ends a training or an evaluation, or is left out of it in silence.

    Args:
        path (Path): The file, for the messages.
        content (Any): What it holds.
        masks (bool): Whether masks are read too.
        evaluated (bool): Whether COCO's evaluation reads the file, which asks for more than mmdet.

    Returns:
        tuple[list[str], list[str]]: What has to be put right, and what is only worth knowing; a
        sentence for each kind.
    """
    if not isinstance(content, dict):
        return [f'{path} is not a COCO annotation file: it holds no object at all'], []
    # A list of test images has no annotations.
    lists = {name: content.get(name, [] if name == 'annotations' else None) for name in LISTS}
    for name, entries in lists.items():
        if not isinstance(entries, list):
            return [f'{path} is not a COCO annotation file: it has no list {name!r}'], []

    # (noun, what is wrong) → the entries with which it is wrong
    wrong: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, entries in lists.items():
        _check_entries(name, entries, wrong)
    images = {image['id']: image for image in _with_id(lists['images'])}
    categories = {category['id'] for category in _with_id(lists['categories'])}
    dropped = []
    for annotation in _with_id(lists['annotations']):
        image_id, category_id = annotation.get('image_id'), annotation.get('category_id')
        if not (_is_id(image_id) and _is_id(category_id)):
            continue  # said already
        name = repr(annotation['id'])
        if image_id not in images:
            words = 'no image of the file has their image_id; add the image, or take them out'
            wrong['annotation', words].append(f'{name} (image_id {image_id!r})')
        elif category_id not in categories:
            words = 'no category of the file has their category_id; add it to the categories'
            wrong['annotation', words].append(f'{name} (category_id {category_id!r})')
        elif not _has_size(images[image_id]) or (annotation.get('ignore') and not evaluated):
            continue  # said already; and mmdet looks at nothing of those to ignore
        else:
            image = images[image_id]
            problems = list(_problems(annotation, evaluated))
            left_out = not problems and _left_out(annotation, image)
            if masks and not problems and (evaluated or not left_out):
                problems = list(_mask_problems(annotation, image, evaluated))
                left_out = left_out or (not problems and not _usable(annotation['segmentation']))
            for words in problems:
                wrong['annotation', words].append(name)
            if left_out and not problems:
                dropped.append(name)

    warnings = []
    if dropped and len(dropped) >= LARGE_SHARE * len(lists['annotations']):
        warnings.append(
            f'{path}: mmdet leaves out {len(dropped)} of the {len(lists["annotations"])} '
            f'annotations ({_some("id", dropped)}): their area is 0, their box is outside of the '
            'image or thinner than a pixel, or no polygon of theirs has three points'
        )
    problems = [f'{path}, {_some(noun, names)}: {words}' for (noun, words), names in wrong.items()]
    return problems, warnings


def _check_entries(name: str, entries: list, wrong: dict[tuple[str, str], list[str]]) -> None:
    """Note what any entry of a list lacks, and ids that are not unique."""
    noun, needed = LISTS[name]
    seen = set()
    for place, entry in enumerate(entries):
        title = f'number {place} of the list'
        if not isinstance(entry, dict):
            wrong[noun, 'not an object with names and values'].append(title)
            continue
        if _is_id(entry.get('id')):
            title = repr(entry['id'])
            if entry['id'] in seen:
                words = 'this id is there more than once; give each entry its own'
                wrong[noun, words].append(title)
            seen.add(entry['id'])
        for key in needed:
            value = entry.get(key)
            if value is None or (key.endswith('id') and not _is_id(value)):
                wrong[noun, f'no {key!r}, which mmdet needs'].append(title)
        sides = [entry.get(side) for side in ('height', 'width')]
        if name == 'images' and None not in sides and not _has_size(entry):
            wrong[noun, "'height' and 'width' have to be numbers above 0"].append(title)


def _with_id(entries: list) -> list[dict]:
    return [entry for entry in entries if isinstance(entry, dict) and _is_id(entry.get('id'))]


def _is_id(value: Any) -> bool:
    return isinstance(value, int | float | str)


def _has_size(image: dict) -> bool:
    sides = image.get('height'), image.get('width')
    return all(_is_number(side) and side > 0 for side in sides)


def _problems(annotation: dict, evaluated: bool) -> Iterator[str]:
    """What is wrong with an annotation beside its mask."""
    box, area = annotation.get('bbox'), annotation.get('area')
    if box is None:
        yield "no 'bbox', which mmdet needs; write [x, y, width, height]"
    elif not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        yield f"'bbox' has to be four numbers, [x, y, width, height], and is {_short(box)}"
    if area is None:
        yield "no 'area', which mmdet needs; write the mask's, or width x height of the bbox"
    elif not _is_number(area):
        yield f"'area' has to be a number and is {_short(area)}"
    if evaluated and annotation.get('iscrowd') is None:
        yield "no 'iscrowd', which COCO's evaluation needs; write 0 (1 for a crowd)"


def _left_out(annotation: dict, image: dict) -> bool:
    """Whether mmdet's CocoDataset leaves an annotation out without a word."""
    x, y, width, height = annotation['bbox']
    across = min(x + width, image['width']) - max(x, 0)
    down = min(y + height, image['height']) - max(y, 0)
    return min(across, down) <= 0 or annotation['area'] <= 0 or min(width, height) < 1


def _mask_problems(annotation: dict, image: dict, evaluated: bool) -> Iterator[str]:
    segmentation = annotation.get('segmentation')
    if not segmentation:
        yield (
            "no 'segmentation' or an empty one, and the model learns or is measured by masks; take "
            'the annotation out, or give it a mask'
        )
    elif isinstance(segmentation, dict):
        size = segmentation.get('size')
        if size != [image['height'], image['width']]:
            yield (
                f"the size in 'segmentation', {_short(size)}, is not its image's [height, width], "
                f'[{image["height"]}, {image["width"]}]'
            )
        elif _pixels(segmentation.get('counts')) != size[0] * size[1]:
            # pycocotools reads and writes beyond its memory with such a mask.
            yield "the run lengths in 'segmentation' do not fill the image; make the mask again"
    elif not isinstance(segmentation, list) or not all(map(_is_polygon, segmentation)):
        yield (
            "'segmentation' has to be a list of polygons, [[x1, y1, x2, y2, x3, y3, ...], ...], or "
            "an object of run lengths ('counts' and 'size')"
        )
    elif evaluated and len(segmentation[0]) < MIN_POLYGON:
        yield (
            "the first polygon in 'segmentation' has less than three points, which COCO's "
            'evaluation cannot read; take it out'
        )


def _is_number(value: Any) -> bool:
    # math.isfinite refuses integers that no float can hold
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def _is_polygon(value: Any) -> bool:
    # All at once: a file has millions of these numbers.
    numbers = isinstance(value, list) and set(map(type, value)) <= {int, float}
    try:
        return numbers and math.isfinite(sum(value))
    except OverflowError:  # an integer that no float can hold
        return False


def _usable(segmentation: dict | list[list]) -> bool:
    """Whether mmdet makes a mask of it; it passes over odd and short polygons."""
    return isinstance(segmentation, dict) or any(
        len(polygon) >= MIN_POLYGON and len(polygon) % 2 == 0 for polygon in segmentation
    )


def _pixels(counts: Any) -> int | None:
    """How many pixels run lengths cover, in a list or in COCO's compressed text; None if broken."""
    if isinstance(counts, list):
        whole = all(type(count) is int and count >= 0 for count in counts)
        return sum(counts) if whole else None
    if not isinstance(counts, str) or not counts.isascii() or not counts:
        return None
    # Each number is written in groups of five bits, low ones first, the sixth bit saying that
    # another group follows, the last group's fifth bit being the sign; from the fourth number on
    # the difference to the last but one is written.
    groups = np.frombuffer(counts.encode(), np.uint8).astype(np.int64) - 48
    if groups.min() < 0 or groups.max() > 63 or groups[-1] & 32:
        return None
    ends = np.flatnonzero(groups & 32 == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > 7:  # beyond 32 bits
        return None
    shifts = 5 * (np.arange(len(groups)) - np.repeat(starts, lengths))
    numbers = np.add.reduceat((groups & 31) << shifts, starts)
    numbers -= np.where(groups[ends] & 16, 1 << (5 * lengths), 0)
    runs = numbers.copy()
    runs[1::2] = np.cumsum(numbers[1::2])
    runs[2::2] = np.cumsum(numbers[2::2])
    return int(runs.sum()) if runs.min() >= 0 else None


def _short(value: Any) -> str:
    words = repr(value)
    return words if len(words) <= 60 else f'{words[:57]}...'


def _some(noun: str, names: list[str]) -> str:
    """'annotation 5', or 'annotations 1, 2, 3 and 9 more'."""
    if len(names) == 1:
        return f'{noun} {names[0]}'
    plural = 'categories' if noun == 'category' else f'{noun}s'
    more = f' and {len(names) - SHOWN} more' if len(names) > SHOWN else ''
    return f'{plural} {", ".join(names[:SHOWN])}{more}'
