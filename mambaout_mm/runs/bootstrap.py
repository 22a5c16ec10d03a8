"""Is a difference of AP or mIoU more than noise? A paired bootstrap over the test images.

Each run is evaluated once. A resample draws as many images as there are, with replacement: it gives
every image a weight, the number of times that it was drawn, and the score of the weighted images
follows from what was kept of the one evaluation. All runs are scored on the same resamples.
"""

import contextlib
import functools
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mambaout_mm.config_tree import dicts_in
from mambaout_mm.errors import UserError
from mambaout_mm.literal_config import only_registered
from mambaout_mm.training.prediction_files import read_predictions
from mambaout_mm.training.predictions import decode_labels

MAX_DETECTIONS = 100  # for each image and category, as in COCO's AP
COCO_METRICS = {'box AP': 'bbox', 'mask AP': 'segm'}


class PairedDifference(NamedTuple):
    """Score of the first runs less that of the second.

    Attributes:
        difference (float): On all images.
        low, high (float): 95 % percentile interval over the resamples.
        flips (float): Share of the resamples in which the difference is 0 or has the other sign.
    """

    difference: float
    low: float
    high: float
    flips: float


class Scorer:
    """The score of one run on any weighting of the images.

    Attributes:
        images (tuple): Identities of the images, in the order of the weights.
        predicted (frozenset): Those for which the run has a prediction.
        class_names (tuple[str, ...]): In the order of :meth:`of_classes`; empty where the scorer
            was not read from a file.
    """

    images: tuple
    predicted: frozenset
    class_names: tuple[str, ...] = ()

    def __init__(self) -> None:
        self._draws: dict[tuple[int, int], np.ndarray] = {}

    def score(self, weights: np.ndarray) -> float:
        """Score, 0 to 1, with image ``i`` taken ``weights[i]`` times; NaN if nothing is there."""
        raise NotImplementedError

    @functools.cached_property
    def total(self) -> float:
        """Score on all images as they are."""
        return self.score(np.ones(len(self.images), int))

    def resampled(self, resamples: int, seed: int) -> np.ndarray:
        """Scores of the resamples, (resamples,): the same ones for every run with these images."""
        if (resamples, seed) not in self._draws:
            generator, n = np.random.default_rng(seed), len(self.images)
            self._draws[resamples, seed] = np.array(
                [
                    self.score(np.bincount(generator.integers(n, size=n), minlength=n))
                    for _ in range(resamples)
                ]
            )
        return self._draws[resamples, seed]

    def of_classes(self) -> np.ndarray:
        """Score of each class on all images, NaN where there is nothing of it."""
        raise NotImplementedError

    def of_images(self) -> np.ndarray:
        """Score of each image alone, NaN where there is nothing in it."""
        return np.array([self.score(row) for row in np.eye(len(self.images), dtype=int)])


class _Category(NamedTuple):
    """Detections of one category, by falling score."""

    image: np.ndarray  # (n,) index of the image
    counted: np.ndarray  # (T, n) whether not ignored; (1, n) if the same for all T IoU thresholds
    true_columns: np.ndarray  # (m,) detections that are true at one threshold at least
    true: np.ndarray  # (T, m) which of those are


class DetectionScorer(Scorer):
    """COCO's AP, IoU 0.5 to 0.95, as mmdet's ``CocoMetric`` has it.

    With all weights 1 it is COCOeval's number; with others it is COCOeval's on a data set with the
    images really repeated, unless an image has two detections of one category with the same score,
    whose copies COCOeval would interleave.

    Args:
        truth (COCO): The annotations.
        category_ids (Sequence[int]): The category of each label.
        predictions (list[dict]): As
            :func:`mambaout_mm.training.prediction_files.read_predictions` has them.
        iou_type (str): 'bbox' or 'segm'.
        area (str): Which objects count, 'all', 'small', 'medium' or 'large', by COCO's bounds of
            32 and 96 pixels squared. Defaults to 'all'.
    """

    def __init__(
        self,
        truth: COCO,
        category_ids: Sequence[int],
        predictions: list[dict],
        iou_type: str,
        area: str = 'all',
    ) -> None:
        super().__init__()
        self.predicted = frozenset(sample['img_id'] for sample in predictions)
        detections = [
            detection
            for sample in predictions
            for detection in _coco_detections(sample, category_ids, iou_type)
        ]
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports on every step
            found = truth.loadRes(detections) if detections else COCO()
            evaluation = COCOeval(truth, found, iou_type)
            parameters = evaluation.params
            parameters.catIds = list(category_ids)
            parameters.maxDets = [MAX_DETECTIONS]
            place = parameters.areaRngLbl.index(area)
            parameters.areaRng, parameters.areaRngLbl = [parameters.areaRng[place]], [area]
            evaluation.evaluate()
        self.images = tuple(parameters.imgIds)
        self.recalls = parameters.recThrs
        size = len(self.images)
        rows = [  # COCOeval keeps them by category, then by image
            evaluation.evalImgs[k * size : (k + 1) * size] for k in range(len(parameters.catIds))
        ]
        self.objects = np.array(  # (categories, images), those that count
            [[0 if e is None else np.sum(e['gtIgnore'] == 0) for e in row] for row in rows]
        )
        self.categories = [_category(row, len(parameters.iouThrs)) for row in rows]

    def score(self, weights: np.ndarray) -> float:
        objects = self.objects @ weights
        scores = [
            self._average_precision(category, count, weights)
            for category, count in zip(self.categories, objects, strict=True)
            if count  # a category without objects is left out, as in COCOeval
        ]
        return float(np.mean(scores)) if scores else np.nan

    def of_classes(self) -> np.ndarray:
        ones = np.ones(len(self.images), int)
        return np.array(
            [
                self._average_precision(category, count, ones) if count else np.nan
                for category, count in zip(self.categories, self.objects @ ones, strict=True)
            ]
        )

    def _average_precision(self, category: _Category, count: int, weights: np.ndarray) -> float:
        """Mean over the IoU thresholds and recalls.

        Precision is highest, and recall grows, at true detections alone: the others only need to
        be counted on the way.
        """
        drawn = weights[category.image].astype(float)
        columns = category.true_columns
        seen = np.cumsum(drawn * category.counted, axis=1)[:, columns]
        true = np.cumsum(drawn[columns] * category.true, axis=1)  # (T, m)
        precision = true / (seen + np.spacing(1))
        # The best precision at this recall or a higher one; beyond the last recall it is 0.
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        envelope = np.pad(envelope, ((0, 0), (0, 1)))
        recall = true / count
        return np.mean(
            [
                row[np.searchsorted(reached, self.recalls)]
                for row, reached in zip(envelope, recall, strict=True)
            ]
        )


def _coco_detections(sample: dict, category_ids: Sequence[int], iou_type: str) -> list[dict]:
    """Detections of an image in COCO's result format."""
    found = sample['pred_instances']
    segm = iou_type == 'segm'
    scores = found['mask_scores'] if segm and 'mask_scores' in found else found['scores']
    detections = []
    for i, (label, score) in enumerate(zip(found['labels'].tolist(), scores.tolist(), strict=True)):
        detection = dict(
            image_id=sample['img_id'], category_id=category_ids[label], score=float(score)
        )
        if segm:
            detection['segmentation'] = found['masks'][i]
        else:
            x1, y1, x2, y2 = found['bboxes'][i].tolist()
            detection['bbox'] = [x1, y1, x2 - x1, y2 - y1]
        detections.append(detection)
    return detections


def _category(row: list[dict | None], thresholds: int) -> _Category:
    """What COCOeval found for one category in each image."""
    kept = [(i, e) for i, e in enumerate(row) if e is not None]
    if not kept:
        nothing = np.zeros((thresholds, 0), bool)
        return _Category(np.zeros(0, int), nothing, np.zeros(0, int), nothing)
    score = np.concatenate([e['dtScores'] for _, e in kept])
    order = np.argsort(-score, kind='stable')
    image = np.concatenate([np.full(len(e['dtScores']), i) for i, e in kept])[order]
    matched = np.concatenate([e['dtMatches'] for _, e in kept], axis=1)[:, order] > 0
    counted = ~np.concatenate([e['dtIgnore'] for _, e in kept], axis=1)[:, order].astype(bool)
    true = matched & counted
    columns = np.flatnonzero(true.any(axis=0))
    if (counted == counted[:1]).all():
        counted = counted[:1]
    return _Category(image, counted, columns, true[:, columns])


class SegmentationScorer(Scorer):
    """Mean IoU over the classes, as mmseg's ``IoUMetric`` has it.

    Args:
        images (list[dict]): As
            :func:`mambaout_mm.training.prediction_files.read_predictions` has them.
        num_classes (int): How many there are.
        ignore_index (int): Label of the pixels that do not count. Defaults to 255.
    """

    def __init__(self, images: list[dict], num_classes: int, ignore_index: int = 255) -> None:
        super().__init__()
        names = [Path(image['img_path']).name for image in images]
        if len(set(names)) < len(names):
            names = [image['img_path'] for image in images]
        order = sorted(range(len(images)), key=names.__getitem__)
        self.images = tuple(names[i] for i in order)
        self.predicted = frozenset(names)
        areas = [_areas(images[i], num_classes, ignore_index) for i in order]
        self.intersection, self.union = np.array(areas).transpose(1, 0, 2)  # (images, classes)

    def score(self, weights: np.ndarray) -> float:
        union = weights @ self.union
        present = union > 0
        if not present.any():
            return np.nan
        return float(np.mean((weights @ self.intersection)[present] / union[present]))

    def of_classes(self) -> np.ndarray:
        with np.errstate(invalid='ignore'):
            return self.intersection.sum(0) / self.union.sum(0)


def _areas(image: dict, num_classes: int, ignore_index: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of each class in prediction and truth, and in one of them at least."""
    if image['truth'] is None:
        raise UserError(
            f'the predictions of {image["img_path"]} have no true labels; test on a data set that '
            'has them'
        )
    truth, prediction = decode_labels(image['truth']), decode_labels(image['prediction'])
    if truth.shape != prediction.shape or prediction.max() >= num_classes:
        raise UserError(
            f'the predictions of {image["img_path"]} are {prediction.shape} pixels of labels up to '
            f'{prediction.max()}, the truth has {truth.shape} of {num_classes} classes'
        )
    counted = truth != ignore_index
    truth, prediction = truth[counted], prediction[counted]
    both, of_truth, of_prediction = (
        np.bincount(labels, minlength=num_classes)[:num_classes]
        for labels in (truth[truth == prediction], truth, prediction)
    )
    return both.astype(float), (of_truth + of_prediction - both).astype(float)


def paired_bootstrap(
    a: Sequence[Scorer], b: Sequence[Scorer], resamples: int = 1000, seed: int = 0
) -> PairedDifference:
    """How far the score of ``a`` is above that of ``b``, and how sure that is.

    Several runs on a side (seeds of one recipe) are averaged in each resample. The interval covers
    the choice of test images, not of the training seed: for that, train several seeds.

    Args:
        a, b (Sequence[Scorer]): Runs of the one and of the other side.
        resamples (int): How often images are drawn. Defaults to 1000.
        seed (int): Of the drawing. Defaults to 0.

    Returns:
        PairedDifference: In the scorers' unit, 0 to 1.

    Raises:
        UserError: If the runs do not have predictions of the same images, or no image has an
            object.
    """
    first = a[0]
    for other in [*a, *b]:
        alone = first.predicted ^ other.predicted
        if alone or first.images != other.images:
            name = min(alone or set(first.images) ^ set(other.images), key=str)
            raise UserError(
                'the runs do not have predictions of the same images: for one, only one of them '
                f'has image {name!r}; run tools/test.py --out for both on the same test set'
            )
    observed = _mean_of([s.total for s in a], [s.total for s in b])
    if np.isnan(observed):
        raise UserError('no image of the test set has an object to be found')
    draws = _mean_of(*([s.resampled(resamples, seed) for s in side] for side in (a, b)))
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return PairedDifference(
        float(observed), float(low), float(high), float(np.mean(draws * observed <= 0))
    )


def _mean_of(a: list, b: list) -> Any:
    return np.mean(a, axis=0) - np.mean(b, axis=0)


def read_scorers(cfg: Config, file: Path, area: str = 'all') -> dict[str, Scorer]:
    """Scorers of what ``tools/test.py --out`` wrote, by metric: 'box AP' and 'mask AP', or 'mIoU'.

    Args:
        cfg (Config): The run's config; it names the annotations and the classes.
        file (Path): The predictions.
        area (str): Of detections, see :class:`DetectionScorer`. Defaults to 'all'.

    Returns:
        dict[str, Scorer]: One for each metric that the predictions allow.

    Raises:
        UserError: If the file or the annotations cannot be used; the message says why.
    """
    predictions = read_predictions(file)
    try:
        return _scorers_of(predictions, cfg, file, area)
    except UserError:
        raise
    except Exception as error:  # of any kind: so are what config, annotations and pickles may hold
        reason = ' '.join(f'{type(error).__name__}: {error}'.split())
        raise UserError(
            f'{file} cannot be scored with the config and the annotations of its run: {reason}'
        ) from error


def _scorers_of(predictions: Any, cfg: Config, file: Path, area: str) -> dict[str, Scorer]:
    if isinstance(predictions, dict) and predictions.get('images'):
        ignored = _evaluator(cfg, 'IoUMetric').get('ignore_index', 255)
        classes = tuple(predictions['classes'])
        scorer = SegmentationScorer(predictions['images'], len(classes), ignored)
        scorer.class_names = classes
        return {'mIoU': scorer}
    if (
        isinstance(predictions, list)
        and predictions
        and all('pred_instances' in sample for sample in predictions)
    ):
        return _detection_scorers(predictions, cfg, file, area)
    raise UserError(
        f'{file} holds neither detections nor label maps; make it anew with tools/test.py --out'
    )


def _detection_scorers(
    predictions: list[dict], cfg: Config, file: Path, area: str
) -> dict[str, Scorer]:
    annotations = annotation_file(cfg)
    if not annotations.is_file():
        raise UserError(
            f'the annotations {str(annotations)!r} (test_evaluator.ann_file) are not there; run '
            'this where the test ran, or give the whole path in the config'
        )
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
    category_ids = truth.getCatIds(catNms=class_names(cfg))
    used = {label for p in predictions for label in p['pred_instances']['labels'].tolist()}
    unknown = {p['img_id'] for p in predictions} - set(truth.imgs)
    out_of_range = used - set(range(len(category_ids)))
    if unknown or out_of_range:
        what = f'image {min(unknown, key=str)!r}' if unknown else f'label {min(out_of_range)}'
        raise UserError(
            f'{file} has {what}, which {annotations} does not have; give the predictions on the '
            "test set of the run's config"
        )
    masks = all('masks' in p['pred_instances'] for p in predictions)
    scorers: dict[str, Scorer] = {}
    for name, iou_type in COCO_METRICS.items():
        if masks or iou_type == 'bbox':
            scorers[name] = DetectionScorer(truth, category_ids, predictions, iou_type, area)
            scorers[name].class_names = tuple(truth.cats[i]['name'] for i in category_ids)
    return scorers


def annotation_file(cfg: Config) -> Path:
    """Of a detector's test."""
    return Path(_evaluator(cfg, 'CocoMetric').get('ann_file') or '')


def _evaluator(cfg: Config, kind: str) -> dict:
    """The test evaluator's metric of this type; an empty dict if it has none."""
    metrics = [node for _, node in dicts_in(cfg.get('test_evaluator'))]
    return next((m for m in metrics if str(m.get('type')).split('.')[-1] == kind), {})


def class_names(cfg: Config) -> list[str]:
    """The classes of the test set: its config's, else its class's."""
    nodes = [node for _, node in dicts_in(cfg.test_dataloader.dataset) if 'ann_file' in node]
    metainfo = dict(nodes[0].get('metainfo') or {}) if nodes else {}
    if not metainfo.get('classes') and nodes:
        name = nodes[0]['type']
        with only_registered():
            cls = DATASETS.get(name if '.' in name else f'{cfg.default_scope}.{name}')
        metainfo = cls.METAINFO
    return list(metainfo.get('classes', ()))
