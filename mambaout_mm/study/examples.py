"""The test images on which two candidates differ most, with truth and both predictions."""

import contextlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import matplotlib
import numpy as np
from mmengine.config import Config
from pycocotools.coco import COCO

from mambaout_mm.config_tree import dicts_in
from mambaout_mm.runs.bootstrap import Scorer, annotation_file, class_names
from mambaout_mm.training.prediction_files import read_predictions
from mambaout_mm.training.predictions import decode_labels

WIDTH = 240  # of each panel, in pixels
QUALITY = 80  # of JPEG
SCORE = 0.3  # of the detections that are drawn


class Example(NamedTuple):
    """A test image on which two candidates differ.

    Attributes:
        image (str): Its name.
        scores (tuple[float, float]): Of the candidate and of the reference, in percent, means over
            the seeds.
        panels (dict[str, bytes]): JPEG files by what they show.
    """

    image: str
    scores: tuple[float, float]
    panels: dict[str, bytes]


def largest_differences(
    a: Mapping[int, Scorer], b: Mapping[int, Scorer], count: int
) -> list[tuple[int, float, float]]:
    """The images on which ``a`` is furthest above ``b``, then those on which it is furthest below.

    Args:
        a, b (Mapping[int, Scorer]): By seed.
        count (int): Of each.

    Returns:
        list[tuple[int, float, float]]: Number of the image, and both scores, 0 to 1.
    """
    common = sorted(a.keys() & b.keys())
    means = [np.mean([side[i].of_images() for i in common], axis=0) for side in (a, b)]
    difference = means[0] - means[1]
    order = [
        int(i) for i in np.argsort(-difference, kind='stable') if difference[i] == difference[i]
    ]
    above = [i for i in order if difference[i] > 0][:count]
    below = [i for i in reversed(order) if difference[i] < 0][:count]
    return [(i, float(means[0][i]), float(means[1][i])) for i in above + below]


def draw_examples(
    cfg: Config,
    files: Mapping[str, Path],
    images: Sequence[Any],
    chosen: Sequence[tuple[int, float, float]],
) -> list[Example]:
    """Panels of image, truth and predictions.

    Args:
        cfg (Config): Of one of the runs.
        files (Mapping[str, Path]): Predictions by the name of whose they are.
        images (Sequence): The scorers' identities of the images.
        chosen (Sequence[tuple]): Of :func:`largest_differences`.

    Returns:
        list[Example]: Those whose image file is there.
    """
    predictions = {name: read_predictions(file) for name, file in files.items()}
    detection = isinstance(next(iter(predictions.values())), list)
    panels_of = _detection_panels if detection else _segmentation_panels
    wanted = [images[i] for i, _, _ in chosen]
    panels = panels_of(cfg, predictions, wanted)
    return [
        Example(panels[name][0], (100 * mine, 100 * theirs), panels[name][1])
        for (_, mine, theirs), name in zip(chosen, wanted, strict=True)
        if name in panels
    ]


def _segmentation_panels(
    cfg: Config, predictions: dict[str, Any], wanted: Sequence[str]
) -> dict[str, tuple[str, dict[str, bytes]]]:
    """The file's name and the panels of each image, in colours of the classes."""
    classes = next(iter(predictions.values()))['classes']
    palette = np.array(matplotlib.colormaps['tab20'](np.arange(len(classes)) % 20))[:, :3] * 255
    colours = np.full((65536, 3), 40, np.uint8)  # what does not count
    colours[: len(classes)] = palette[:, ::-1]  # BGR, as OpenCV writes it
    found = {}
    for name in wanted:
        maps = {}
        for who, content in predictions.items():
            image = next(i for i in content['images'] if i['img_path'].endswith(name))
            maps.setdefault('truth', decode_labels(image['truth']))
            maps[who] = decode_labels(image['prediction'])
        picture = cv2.imread(image['img_path'])
        if picture is None:
            continue
        labels = {who: _shrink(colours[x], cv2.INTER_NEAREST) for who, x in maps.items()}
        panels = {'image': _jpeg(_shrink(picture))}
        panels |= {who: _jpeg(x) for who, x in labels.items()}
        found[name] = Path(name).name, panels
    return found


def _detection_panels(
    cfg: Config, predictions: dict[str, Any], wanted: Sequence[int]
) -> dict[int, tuple[str, dict[str, bytes]]]:
    """The file's name and the panels of each image, with boxes."""
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports on every step
        truth = COCO(str(annotation_file(cfg)))
    names = class_names(cfg)
    ids = truth.getCatIds(catNms=names)
    found = {}
    for image_id in wanted:
        info = truth.loadImgs([image_id])[0]
        picture = cv2.imread(str(_image_folder(cfg) / info['file_name']))
        if picture is None:
            continue
        scale = WIDTH / picture.shape[1]
        small = _shrink(picture)
        objects = truth.loadAnns(truth.getAnnIds(imgIds=[image_id], catIds=ids))
        boxes = [(*o['bbox'][:2], o['bbox'][0] + o['bbox'][2], o['bbox'][1] + o['bbox'][3])
                 for o in objects]  # fmt: skip
        labels = [ids.index(o['category_id']) for o in objects]
        panels = {'truth': _jpeg(_with_boxes(small, boxes, labels, names, scale))}
        for who, content in predictions.items():
            instances = next(p['pred_instances'] for p in content if p['img_id'] == image_id)
            sure = instances['scores'] >= SCORE
            panels[who] = _jpeg(
                _with_boxes(
                    small, instances['bboxes'][sure], instances['labels'][sure], names, scale
                )
            )
        found[image_id] = info['file_name'], panels
    return found


def _image_folder(cfg: Config) -> Path:
    """Where the test set's images are."""
    nodes = [node for _, node in dicts_in(cfg.test_dataloader.dataset) if 'ann_file' in node]
    root = nodes[0].get('data_root') or '' if nodes else ''
    prefix = (nodes[0].get('data_prefix') or {}).get('img') or '' if nodes else ''
    return Path(root) / prefix


def _with_boxes(
    picture: np.ndarray, boxes: Any, labels: Any, names: Sequence[str], scale: float
) -> np.ndarray:
    drawn = picture.copy()
    for box, label in zip(boxes, labels, strict=True):
        colour = [int(255 * c) for c in matplotlib.colormaps['tab10'](int(label) % 10)[2::-1]]
        x1, y1, x2, y2 = (round(float(side) * scale) for side in box)
        cv2.rectangle(drawn, (x1, y1), (x2, y2), colour, 2)
        place = (x1 + 2, max(y1 + 11, 11))
        cv2.putText(drawn, names[int(label)], place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, colour, 1)
    return drawn


def _shrink(picture: np.ndarray, how: int = cv2.INTER_AREA) -> np.ndarray:
    height, width = picture.shape[:2]
    return cv2.resize(picture, (WIDTH, max(1, round(height * WIDTH / width))), interpolation=how)


def _jpeg(picture: np.ndarray) -> bytes:
    return cv2.imencode('.jpg', picture, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()
