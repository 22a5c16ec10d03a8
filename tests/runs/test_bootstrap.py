"""The bootstrap's scores are those of pycocotools and mmseg, and its intervals hold."""

import contextlib
import copy
import io
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmseg.evaluation import IoUMetric
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mambaout_mm.errors import UserError
from mambaout_mm.runs.bootstrap import (
    DetectionScorer,
    Scorer,
    SegmentationScorer,
    paired_bootstrap,
    read_scorers,
)
from mambaout_mm.training.prediction_files import write_detections, write_label_maps
from mambaout_mm.training.predictions import DumpSegResults
from mambaout_mm.trust import trusting

SIDE = 64
CATEGORY_IDS = [3, 7, 9]  # as in COCO, not the labels; 9 has detections and no object


def rle_of(box):
    x1, y1, x2, y2 = np.clip(np.round(box).astype(int), 0, SIDE)
    pixels = np.zeros((SIDE, SIDE), np.uint8, order='F')
    pixels[y1:y2, x1:x2] = 1
    pixels[y1 : (y1 + y2) // 2, x1 : (x1 + x2) // 2] = 0  # a corner is gone: masks are not boxes
    return coco_mask.encode(pixels)


def random_boxes(rng, count):
    low = rng.uniform(0, SIDE - 24, (count, 2))
    return np.concatenate([low, low + rng.uniform(8, 24, (count, 2))], axis=1)


def detections_near(rng, boxes, labels, crowded=False):
    """Each object found about twice, some under another label, and boxes of nothing."""
    found = np.repeat(boxes, 2, axis=0) + rng.normal(0, 2, (2 * len(boxes), 4))
    found = np.concatenate([found, random_boxes(rng, 130 if crowded else 3)]).clip(0, SIDE)
    shown = np.concatenate([np.repeat(labels, 2), np.zeros(len(found) - 2 * len(boxes), int)])
    wrong = rng.random(len(shown)) < 0.15
    shown = np.where(wrong, rng.integers(0, 3, len(shown)), shown)
    return dict(
        bboxes=torch.tensor(found, dtype=torch.float32),
        labels=torch.tensor(shown),
        # The same scores in other images, whose order decides, and not twice in one.
        scores=torch.tensor(rng.permutation(150)[: len(found)] / 150, dtype=torch.float32),
        masks=[rle_of(box) for box in found],
    )


@pytest.fixture(scope='module')
def detection_data():
    """COCO annotations with crowds, and predictions, of 12 images; two have no object."""
    rng = np.random.default_rng(0)
    annotations, predictions = [], []
    for image_id in range(10, 22):
        boxes = random_boxes(rng, 0 if image_id in (13, 20) else 5)
        labels = rng.integers(0, 2, len(boxes))
        for box, label in zip(boxes, labels, strict=True):
            x1, y1, x2, y2 = box.tolist()
            mask = rle_of(box)
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=image_id,
                    category_id=CATEGORY_IDS[label],
                    bbox=[x1, y1, x2 - x1, y2 - y1],
                    area=float(coco_mask.area(mask)),
                    segmentation=dict(mask, counts=mask['counts'].decode()),
                    iscrowd=int(len(annotations) % 9 == 4),
                )
            )
        found = detections_near(rng, boxes, labels, crowded=image_id == 11)
        predictions.append(dict(img_id=image_id, pred_instances=found))
    truth = dict(
        images=[dict(id=i, width=SIDE, height=SIDE) for i in range(10, 22)],
        categories=[dict(id=i, name=f'class {i}') for i in CATEGORY_IDS],
        annotations=annotations,
        info={},
    )
    return truth, predictions


def coco_of(truth):
    coco = COCO()
    coco.dataset = copy.deepcopy(truth)
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def repeated(truth, predictions, times):
    """The data set with image ``i`` really there ``times[i]`` times."""
    copies, found, annotations = [], [], []
    for image, sample, count in zip(truth['images'], predictions, times, strict=True):
        for _ in range(count):
            new = len(copies)
            copies.append(dict(image, id=new))
            found.append(dict(sample, img_id=new))
            for a in truth['annotations']:
                if a['image_id'] == image['id']:
                    annotations.append(dict(a, id=len(annotations) + 1, image_id=new))
    return dict(truth, images=copies, annotations=annotations), found


def coco_ap(truth, predictions, iou_type):
    """pycocotools as mmdet's CocoMetric calls it."""
    results = []
    for sample in predictions:
        found = sample['pred_instances']
        for box, label, score, mask in zip(*(found[k] for k in found), strict=True):
            x1, y1, x2, y2 = box.tolist()
            where = dict(bbox=[x1, y1, x2 - x1, y2 - y1])
            if iou_type == 'segm':
                where = dict(segmentation=mask)
            category = CATEGORY_IDS[label]
            results.append(
                dict(image_id=sample['img_id'], category_id=category, score=float(score), **where)
            )
    coco = coco_of(truth)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(coco, coco.loadRes(results), iou_type)
        evaluation.params.maxDets = [100, 300, 1000]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[0]


@pytest.mark.parametrize('iou_type', ['bbox', 'segm'])
def test_weighted_ap_is_that_of_images_really_repeated(iou_type, detection_data):
    truth, predictions = detection_data
    scorer = DetectionScorer(coco_of(truth), CATEGORY_IDS, predictions, iou_type)
    assert scorer.total == pytest.approx(coco_ap(truth, predictions, iou_type), abs=1e-12)
    assert 0.1 < scorer.total < 0.9, 'the data set says nothing about precision'
    rng = np.random.default_rng(1)
    for _ in range(4):
        times = np.bincount(rng.integers(12, size=12), minlength=12)
        expected = coco_ap(*repeated(truth, predictions, times), iou_type)
        assert scorer.score(times) == pytest.approx(expected, abs=1e-12)


def test_ap_of_masks_with_scores_of_their_own(detection_data):
    truth, predictions = copy.deepcopy(detection_data)
    for sample in predictions:
        found = sample['pred_instances']
        found['mask_scores'] = found['scores']
        found['scores'] = 1 - found['scores']
    with_own = DetectionScorer(coco_of(truth), CATEGORY_IDS, predictions, 'segm').total
    assert with_own == pytest.approx(coco_ap(*detection_data, 'segm'), abs=1e-12)


def test_ap_without_a_detection_is_0_and_without_an_object_missing(detection_data):
    truth, predictions = detection_data
    nothing = dict(bboxes=torch.zeros(0, 4), labels=torch.zeros(0), scores=torch.zeros(0))
    blind = [dict(sample, pred_instances=nothing) for sample in predictions]
    scorer = DetectionScorer(coco_of(truth), CATEGORY_IDS, blind, 'bbox')
    assert scorer.total == 0
    empty = np.array([image_id in (13, 20) for image_id in scorer.images], int)
    assert np.isnan(scorer.score(empty))


def label_maps(rng, count, classes, flaw):
    """Samples of a segmentor: a share ``flaw`` of the pixels is wrong."""
    samples = []
    for i in range(count):
        # Class 3 has no pixel in the truth, class 4 in neither.
        truth = torch.tensor(rng.choice([0, 1, 2, 5, 255], (7, 9)))
        noise = torch.tensor(rng.choice([0, 1, 2, 3, 5], (7, 9)))
        wrong = torch.tensor(rng.random((7, 9))) < flaw
        prediction = torch.where(wrong | (truth == 255), noise, truth)
        samples.append(
            dict(
                img_path=f'{i}.png',
                pred_sem_seg=dict(data=prediction[None]),
                gt_sem_seg=dict(data=truth[None]),
            )
        )
    return samples


def kept(samples):
    metric = DumpSegResults('predictions.npz')
    metric.process(None, samples)
    return metric.results


@pytest.mark.parametrize('ignore_index', [255, 0])
def test_miou_is_mmsegs(ignore_index):
    rng = np.random.default_rng(0)
    samples = label_maps(rng, 6, 6, 0.3)
    scorer = SegmentationScorer(kept(samples), 6, ignore_index)
    metric = IoUMetric(ignore_index=ignore_index)
    metric.dataset_meta = dict(classes=tuple('abcdef'))
    for times in ([1] * 6, [2, 0, 3, 1, 0, 0]):
        metric.results = []
        metric.process(None, [s for s, n in zip(samples, times, strict=True) for _ in range(n)])
        expected = metric.compute_metrics(metric.results)['mIoU']
        assert 100 * scorer.score(np.array(times)) == pytest.approx(expected, abs=0.006)
    assert scorer.total == scorer.score(np.ones(6, int))
    # Several processes collect images in another order.
    other = SegmentationScorer(kept(samples)[::-1], 6, ignore_index)
    assert other.images == scorer.images
    assert other.score(np.array(times)) == scorer.score(np.array(times))


class MeanScorer(Scorer):
    """A score whose bootstrap is known: the mean of a number of each image."""

    def __init__(self, values, images=None):
        super().__init__()
        self.values = values
        self.images = tuple(images or range(len(values)))
        self.predicted = frozenset(self.images)

    def score(self, weights):
        return weights @ self.values / len(self.values)


def test_interval_covers_no_difference_95_times_in_100():
    """Also shows the pairing: images differ ten times as much as runs."""
    rng = np.random.default_rng(0)
    covered = []
    for seed in range(300):
        difficulty = rng.normal(0, 1, 50)
        a, b = (MeanScorer(difficulty + rng.normal(0, 0.1, 50)) for _ in range(2))
        drawn = paired_bootstrap([a], [b], 200, seed)
        covered.append(drawn.low <= 0 <= drawn.high)
    # 300 trials: 0.95 +- 0.013; the percentile interval of 50 images is a little narrow.
    assert 0.90 <= np.mean(covered) <= 0.98


def test_interval_leaves_0_out_for_a_real_difference():
    rng = np.random.default_rng(0)
    difficulty = rng.normal(0, 1, 50)
    a = MeanScorer(difficulty + 0.1 + rng.normal(0, 0.1, 50))
    b = MeanScorer(difficulty + rng.normal(0, 0.1, 50))
    drawn = paired_bootstrap([a], [b])
    assert 0 < drawn.low < drawn.difference < drawn.high
    assert drawn.difference == pytest.approx(np.mean(a.values - b.values))
    assert drawn.flips == 0
    back = paired_bootstrap([b], [a])
    assert (back.low, back.high) == pytest.approx((-drawn.high, -drawn.low))
    # The standard error of a mean of pairs.
    error = np.std(a.values - b.values) / 50**0.5
    assert (drawn.high - drawn.low) / 2 == pytest.approx(1.96 * error, rel=0.1)


def test_seeds_of_a_side_are_averaged_in_each_resample():
    rng = np.random.default_rng(0)
    seeds = [MeanScorer(rng.normal(0, 1, 30)) for _ in range(3)]
    mean = MeanScorer(np.mean([s.values for s in seeds], axis=0))
    other = MeanScorer(rng.normal(0, 1, 30))
    assert paired_bootstrap(seeds, [other]) == pytest.approx(paired_bootstrap([mean], [other]))


def test_the_same_seed_draws_the_same():
    rng = np.random.default_rng(0)
    values = rng.normal(0, 1, (2, 30))
    pair = [[MeanScorer(values[0])], [MeanScorer(values[1])]]
    draws = [paired_bootstrap(*pair, 100, seed) for seed in (0, 1)]
    assert paired_bootstrap(*pair, 50, 1) not in draws
    fresh = [[MeanScorer(values[0])], [MeanScorer(values[1])]]
    assert paired_bootstrap(*fresh, 100, 1) == draws[1] != draws[0]
    assert 0 < draws[0].flips < 1


def test_other_images_are_refused():
    runs = [MeanScorer(np.zeros(3), images) for images in (['a', 'b', 'c'], ['a', 'b', 'd'])]
    with pytest.raises(UserError, match=r"has image 'c'; run tools/test.py --out for both"):
        paired_bootstrap(runs[:1], runs[1:])


def write(path, predictions):
    write_detections(path, [dict(p, pred_instances=dict(p['pred_instances'])) for p in predictions])


@pytest.fixture
def detection_run(detection_data, tmp_path):
    """Config and predictions file of a detector."""
    truth, predictions = detection_data
    (tmp_path / 'val.json').write_text(json.dumps(truth))
    write(tmp_path / 'predictions.npz', predictions)
    names = [category['name'] for category in truth['categories']]
    dataset = dict(type='CocoDataset', ann_file='val.json', metainfo=dict(classes=names))
    evaluator = dict(type='CocoMetric', ann_file=str(tmp_path / 'val.json'))
    cfg = Config(
        dict(
            default_scope='mmdet',
            test_dataloader=dict(dataset=dataset),
            test_evaluator=[evaluator],
        )
    )
    return cfg, tmp_path / 'predictions.npz'


def test_reads_a_detectors_predictions(detection_run, detection_data):
    scorers = read_scorers(*detection_run)
    for name, iou_type in (('box AP', 'bbox'), ('mask AP', 'segm')):
        assert scorers[name].total == pytest.approx(coco_ap(*detection_data, iou_type), abs=1e-12)


def test_scores_are_exactly_those_of_the_pickle(detection_run, detection_data):
    cfg, file = detection_run
    pickled = file.with_suffix('.pkl')
    pickled.write_bytes(pickle.dumps(detection_data[1]))
    found = read_scorers(cfg, file)
    with trusting(True):
        expected = read_scorers(cfg, pickled)
    assert list(found) == list(expected) == ['box AP', 'mask AP']
    times = np.random.default_rng(0).integers(0, 3, 12)
    for name in found:
        assert found[name].total == expected[name].total > 0.1
        assert found[name].score(times) == expected[name].score(times)


def test_labels_count_the_configs_classes_in_the_files_order(detection_run, detection_data):
    """As CocoMetric: a class that the config leaves out has no label."""
    cfg, file = detection_run
    truth, predictions = copy.deepcopy(detection_data)
    cfg.test_dataloader.dataset.metainfo.classes = ['class 9', 'class 7']
    for sample in predictions:
        sample['pred_instances']['labels'].fill_(0)
    write(file, predictions)
    alone = DetectionScorer(coco_of(truth), [7], predictions, 'bbox').total
    assert read_scorers(cfg, file)['box AP'].total == alone > 0


def test_classes_come_from_the_data_set_where_the_config_has_none(detection_run):
    cfg, file = detection_run
    del cfg.test_dataloader.dataset['metainfo']
    truth = json.loads((file.parent / 'val.json').read_text())
    for category, name in zip(truth['categories'], ('person', 'bicycle', 'car'), strict=True):
        category['name'] = name
    (file.parent / 'val.json').write_text(json.dumps(truth))
    assert read_scorers(cfg, file)['box AP'].total > 0.1


def no_annotations(cfg, predictions):
    cfg.test_evaluator[0].ann_file = 'nowhere.json'


def other_image(cfg, predictions):
    predictions[0]['img_id'] = 4


def other_classes(cfg, predictions):
    cfg.test_dataloader.dataset.metainfo.classes = ['class 3', 'class 7']


def below_all_classes(cfg, predictions):
    predictions[0]['pred_instances']['labels'][0] = -1


def broken_annotations(cfg, predictions):
    Path(cfg.test_evaluator[0].ann_file).write_text('[1, 2]')


def no_image(cfg, predictions):
    predictions.clear()


@pytest.mark.parametrize(
    ('spoil', 'words'),
    [
        (no_annotations, "'nowhere.json' .* are not there"),
        (other_image, 'has image 4, which .*val.json does not have'),
        (other_classes, 'has label 2, which .*val.json does not have'),
        (below_all_classes, 'has label -1, which .*val.json does not have'),
        (broken_annotations, 'cannot be scored with the config and the annotations of its run'),
        (no_image, 'neither detections nor label maps'),
    ],
)
def test_predictions_that_do_not_fit(spoil, words, detection_run, detection_data):
    cfg, file = detection_run
    predictions = copy.deepcopy(detection_data[1])
    spoil(cfg, predictions)
    write(file, predictions)
    with pytest.raises(UserError, match=words):
        read_scorers(cfg, file)


@pytest.mark.parametrize(
    'content', [1, [1], [dict()], dict(images=1), [dict(seg_logits=1)], [dict(pred_instances=1)]]
)
def test_a_trusted_pickle_of_something_else(content, detection_run):
    cfg, file = detection_run
    file.with_suffix('.pkl').write_bytes(pickle.dumps(content))
    with (
        trusting(True),
        pytest.raises(UserError, match='predictions.pkl (holds neither|cannot be)'),
    ):
        read_scorers(cfg, file.with_suffix('.pkl'))


def test_reads_a_segmentors_predictions(tmp_path):
    samples = label_maps(np.random.default_rng(0), 4, 6, 0.3)
    write_label_maps(tmp_path / 'predictions.npz', 'abcdef', kept(samples))
    cfg = Config(dict(test_evaluator=dict(type='mmseg.IoUMetric', ignore_index=0)))
    scorers = read_scorers(cfg, tmp_path / 'predictions.npz')
    assert scorers['mIoU'].total == SegmentationScorer(kept(samples), 6, 0).total


def larger(sample):
    sample['pred_sem_seg']['data'] = torch.zeros(1, 8, 9, dtype=torch.int64)


def of_no_class(sample):
    sample['pred_sem_seg']['data'][0, 0, 0] = 6


@pytest.mark.parametrize(
    ('spoil', 'words'),
    [
        (larger, r'are \(8, 9\) pixels of labels up to 0, the truth has \(7, 9\)'),
        (of_no_class, r'.*labels up to 6, the truth has \(7, 9\) of 6 classes'),
    ],
)
def test_label_maps_that_do_not_fit(spoil, words):
    samples = label_maps(np.random.default_rng(0), 1, 6, 0.3)
    spoil(samples[0])
    with pytest.raises(UserError, match=f'the predictions of 0.png {words}'):
        SegmentationScorer(kept(samples), 6)


def test_label_maps_without_truth_are_refused():
    (sample,) = label_maps(np.random.default_rng(0), 1, 6, 0.3)
    del sample['gt_sem_seg']
    with pytest.raises(UserError, match=r'0.png have no true labels'):
        SegmentationScorer(kept([sample]), 6)
