"""The file of ``tools/test.py --out``: arrays that NumPy reads without running anything in it.

Lists of different lengths are laid one after the other, with ``offsets`` beside them: those of
image ``i`` are from ``offsets[i]`` to ``offsets[i + 1]``. Of a detector, for N images and D
objects:

* ``image_ids`` (N,) int64 and ``offsets`` (N + 1,) int64.
* ``boxes`` (D, 4): x1, y1, x2, y2 in pixels of the image; ``scores`` (D,); ``labels`` (D,) int64.
* With masks: ``mask_sizes`` (D, 2) int64, height and width; ``mask_counts`` uint8, COCO's run
  lengths as pycocotools writes them, those of object ``d`` by ``mask_offsets`` (D + 1,); and
  ``mask_scores`` (D,) where masks have scores of their own.

Of a segmentor, for N images:

* ``classes`` (C,) and ``image_paths`` (N,), texts.
* ``predictions`` and ``truths``, uint8: PNG files of labels, those of image ``i`` by
  ``prediction_offsets`` and ``truth_offsets`` (N + 1,). A truth has no byte where the data set has
  no labels.
"""

import pickle
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from mambaout_mm.errors import UserError
from mambaout_mm.files import whole_file
from mambaout_mm.trust import is_trusted

LONGEST_SIDE = 1_000_000  # of a mask's side, so that height times width fits in 64 bits
INTEGER, NUMBER, TEXT, BYTES = ('i', 'integers'), ('f', 'numbers'), ('U', 'texts'), ('u', 'bytes')


def write_detections(path: Path, images: list[dict]) -> None:
    """Write what a detector found.

    Args:
        path (Path): A ``.npz`` file.
        images (list[dict]): Of each image ``img_id`` (int) and ``pred_instances``, a dict of arrays
            ``bboxes``, ``scores``, ``labels``, if there are any ``mask_scores``, and ``masks``, a
            list of COCO's run lengths.

    Raises:
        UserError: If an image has no integer as its id, or the file cannot be written.
    """
    ids = [image.get('img_id') for image in images]
    if not all(isinstance(i, int | np.integer) for i in ids):
        other = next(i for i in ids if not isinstance(i, int | np.integer))
        raise UserError(f'an image has the id {other!r}, no integer; write to a .pkl file instead')
    found = [image['pred_instances'] for image in images]
    arrays = dict(
        image_ids=np.array(ids, np.int64),
        offsets=_offsets(len(one['scores']) for one in found),
        boxes=_joined([one['bboxes'] for one in found], (0, 4)),
        scores=_joined([one['scores'] for one in found], (0,)),
        labels=_joined([one['labels'] for one in found], (0,)).astype(np.int64),
    )
    if found and all('mask_scores' in one for one in found):
        arrays['mask_scores'] = _joined([one['mask_scores'] for one in found], (0,))
    if found and all('masks' in one for one in found):
        masks = [mask for one in found for mask in one['masks']]
        sizes = np.array([mask['size'] for mask in masks], np.int64)
        arrays['mask_sizes'] = sizes.reshape(-1, 2)
        arrays['mask_counts'], arrays['mask_offsets'] = _laid(mask['counts'] for mask in masks)
    _write(path, arrays)


def write_label_maps(path: Path, classes: Iterable[str], images: list[dict]) -> None:
    """Write label maps.

    Args:
        path (Path): A ``.npz`` file.
        classes (Iterable[str]): The names; label ``i`` is ``classes[i]``.
        images (list[dict]): Of each image ``img_path`` (str), ``prediction`` (bytes of a PNG file)
            and ``truth`` (the same, or None).

    Raises:
        UserError: If the file cannot be written.
    """
    predictions, prediction_offsets = _laid(image['prediction'] for image in images)
    truths, truth_offsets = _laid(image['truth'] or b'' for image in images)
    _write(
        path,
        dict(
            classes=np.array(list(classes), np.str_),
            image_paths=np.array([image['img_path'] for image in images], np.str_),
            predictions=predictions,
            prediction_offsets=prediction_offsets,
            truths=truths,
            truth_offsets=truth_offsets,
        ),
    )


def _offsets(lengths: Iterable[int]) -> np.ndarray:
    return np.cumsum([0, *lengths], dtype=np.int64)


def _joined(parts: list[Any], empty: tuple[int, ...]) -> np.ndarray:
    return np.concatenate([np.asarray(part) for part in parts]) if parts else np.zeros(empty)


def _laid(parts: Iterable[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Bytes one after the other, and their offsets."""
    parts = list(parts)
    return np.frombuffer(b''.join(parts), np.uint8), _offsets(map(len, parts))


def _write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    needs = sum(array.nbytes for array in arrays.values())
    with whole_file(path, needs) as unfinished, unfinished.open('wb') as file:
        np.savez(file, **arrays)


def read_predictions(path: Path) -> Any:
    """What ``tools/test.py --out`` wrote.

    Args:
        path (Path): A ``.npz`` file, or, within ``trusting(True)``, a pickle.

    Returns:
        list[dict] | dict: Of a detector the ``images`` of :func:`write_detections`; of a segmentor
        a dict of ``classes`` and the ``images`` of :func:`write_label_maps`.

    Raises:
        UserError: If the file is damaged or holds anything else, or is a pickle and not trusted.
    """
    if path.suffix != '.npz' and not is_trusted():
        raise UserError(
            f'{path} is a pickle, which can run any code as it is read; make a .npz file with '
            'tools/test.py --out, or say --trust if you trust who made it'
        )
    try:
        if path.suffix == '.npz':
            with path.open('rb') as file, np.load(file, allow_pickle=False) as arrays:
                images = 'image_ids' in arrays
                return _read_detections(arrays) if images else _read_label_maps(arrays)
        with path.open('rb') as file:
            return pickle.load(file)
    except Exception as error:  # of any kind: so many are raised for zip files that are damaged
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f'{path} cannot be read as predictions ({reason}); make it anew with tools/test.py '
            f'--out {path}'
        ) from error


def _array(arrays: Any, name: str, kind: tuple[str, str], *shape: int | None) -> np.ndarray:
    """One array, if it is of this kind and shape; None is any length."""
    if name not in arrays:
        raise ValueError(f'it has no array {name!r}')
    array = arrays[name]
    wanted = zip(array.shape, shape, strict=False)
    fits = array.ndim == len(shape) and all(w in (None, length) for length, w in wanted)
    if array.dtype.kind != kind[0] or not fits or (kind == BYTES and array.dtype != np.uint8):
        lengths = ' x '.join('any' if length is None else str(length) for length in shape)
        raise ValueError(
            f'its array {name!r} holds {array.dtype} of shape {array.shape}, not {kind[1]}, '
            f'{lengths}'
        )
    return array


def _read_offsets(arrays: Any, name: str, count: int, length: int, of: str) -> np.ndarray:
    offsets = _array(arrays, name, INTEGER, count + 1)
    if offsets[0] != 0 or offsets[-1] != length or (np.diff(offsets) < 0).any():
        raise ValueError(f'its array {name!r} does not divide the {length} entries of {of!r}')
    return offsets


def _read_bytes(arrays: Any, name: str, offsets_name: str, count: int) -> list[bytes]:
    content = _array(arrays, name, BYTES, None)
    offsets = _read_offsets(arrays, offsets_name, count, len(content), name)
    return [content[a:b].tobytes() for a, b in pairwise(offsets)]


def _read_detections(arrays: Any) -> list[dict]:
    ids = _array(arrays, 'image_ids', INTEGER, None)
    if len(np.unique(ids)) < len(ids):
        raise ValueError('an image is there twice')
    scores = _array(arrays, 'scores', NUMBER, None)
    count = len(scores)
    fields = dict(
        bboxes=_array(arrays, 'boxes', NUMBER, count, 4),
        labels=_array(arrays, 'labels', INTEGER, count),
        scores=scores,
    )
    if 'mask_scores' in arrays:
        fields['mask_scores'] = _array(arrays, 'mask_scores', NUMBER, count)
    for name in ('scores', 'mask_scores'):
        if name in fields and not np.isfinite(fields[name]).all():
            raise ValueError(f'not all of its {name} are finite numbers')
    if 'mask_sizes' in arrays:
        sizes = _array(arrays, 'mask_sizes', INTEGER, count, 2)
        texts = _read_bytes(arrays, 'mask_counts', 'mask_offsets', count)
        _check_run_lengths(arrays['mask_counts'], arrays['mask_offsets'], sizes)
        fields['masks'] = [
            dict(size=size, counts=text) for size, text in zip(sizes.tolist(), texts, strict=True)
        ]
    offsets = _read_offsets(arrays, 'offsets', len(ids), count, 'scores')
    return [
        dict(img_id=i, pred_instances={name: values[a:b] for name, values in fields.items()})
        for i, (a, b) in zip(ids.tolist(), pairwise(offsets), strict=True)
    ]


def _check_run_lengths(counts: np.ndarray, offsets: np.ndarray, sizes: np.ndarray) -> None:
    """Check that run lengths fill their masks: pycocotools would read past the end of others.

    A number is written as digits of five bits, the lowest first, in characters from '0' (48) on;
    bit 32 says that another digit follows, bit 16 of the last one that the number is negative. From
    the fourth number of a mask on, each is the difference to the one two before it.
    """
    if not len(sizes):
        return
    wrong = ValueError('the run lengths of its masks do not fill them')
    digits = counts.astype(np.int64) - 48
    follows = (digits & 32) > 0
    if not (sizes.min() > 0 and sizes.max() <= LONGEST_SIDE and (np.diff(offsets) > 0).all()):
        raise wrong
    if digits.min() < 0 or digits.max() > 63 or follows[offsets[1:] - 1].any():
        raise wrong
    ends = np.flatnonzero(~follows)
    starts = np.concatenate([[0], ends[:-1] + 1])
    place = np.arange(len(digits)) - np.repeat(starts, ends - starts + 1)
    if place.max() > 6:
        raise wrong
    numbers = np.add.reduceat((digits & 31) << (5 * place), starts)
    numbers -= np.where(digits[ends] & 16, 1 << (5 * (place[ends] + 1)), 0)
    first = np.searchsorted(ends, offsets[:-1])  # number at which each mask begins
    mask = np.repeat(np.arange(len(first)), np.diff([*first, len(numbers)]))
    index = np.arange(len(numbers)) - first[mask]
    runs = numbers.copy()
    for odd in (0, 1):
        chain = np.flatnonzero((index % 2 == odd) & (index > 0))
        total = np.cumsum(numbers[chain])
        begins = index[chain] == 2 - odd
        before = (total - numbers[chain])[begins]
        runs[chain] = total - before[np.cumsum(begins) - 1]
    if runs.min() < 0 or (np.add.reduceat(runs, first) != sizes.prod(axis=1)).any():
        raise wrong


def _read_label_maps(arrays: Any) -> dict[str, Any]:
    classes = _array(arrays, 'classes', TEXT, None).tolist()
    paths = _array(arrays, 'image_paths', TEXT, None).tolist()
    predictions = _read_bytes(arrays, 'predictions', 'prediction_offsets', len(paths))
    truths = _read_bytes(arrays, 'truths', 'truth_offsets', len(paths))
    images = [
        dict(img_path=path, prediction=prediction, truth=truth or None)
        for path, prediction, truth in zip(paths, predictions, truths, strict=True)
    ]
    return dict(classes=tuple(classes), images=images)
