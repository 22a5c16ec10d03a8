"""The metrics that write predictions to a file."""

import copy
import io

import cv2
import numpy as np
import pytest
import torch
from mmdet.evaluation.metrics import DumpDetResults
from mmengine.evaluator import Evaluator
from mmengine.registry import METRICS
from mmengine.structures import PixelData
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.evaluation import IoUMetric
from mmseg.structures import SegDataSample
from PIL import Image

from mambaout_mm.errors import UserError
from mambaout_mm.runs.bootstrap import SegmentationScorer
from mambaout_mm.training.prediction_files import read_predictions
from mambaout_mm.training.predictions import DumpDetections, DumpSegResults, decode_labels
from mambaout_mm.trust import trusting


def sample_of(prediction, truth=None, path='folder/a.png', **fields):
    sample = SegDataSample(metainfo=dict(img_path=path))
    sample.pred_sem_seg = PixelData(data=torch.as_tensor(prediction)[None])
    if truth is not None:
        sample.gt_sem_seg = PixelData(data=torch.as_tensor(truth)[None])
    sample.set_data({key: PixelData(data=value) for key, value in fields.items()})
    return sample


def written(samples, folder, classes=('sky', 'road'), name='predictions.npz'):
    """What the file holds after MMEngine's evaluator has run over the samples."""
    evaluator = Evaluator([DumpSegResults(str(folder / name))])
    evaluator.dataset_meta = dict(classes=classes)
    for sample in samples:
        evaluator.process([sample])
    evaluator.evaluate(len(samples))
    return read_predictions(folder / name)


@pytest.mark.parametrize(('highest', 'dtype'), [(1, 'uint8'), (255, 'uint8'), (256, 'uint16')])
def test_label_maps_come_back(highest, dtype, tmp_path):
    prediction = np.array([[0, highest, 1], [1, 1, 0]], np.int64)
    samples = [sample_of(prediction, prediction.T)]
    content = written(samples, tmp_path)
    with trusting(True):
        assert written(samples, tmp_path, name='predictions.pkl') == content
    (image,) = content['images']
    assert (content['classes'], image['img_path']) == (('sky', 'road'), 'folder/a.png')
    for key, expected in (('prediction', prediction), ('truth', prediction.T)):
        labels = decode_labels(image[key])
        assert labels.dtype == dtype
        np.testing.assert_array_equal(labels, expected)
        # As the docstring says, any library reads it.
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(image[key]))), expected)


def test_logits_are_left_out(tmp_path):
    labels = torch.zeros(64, 64, dtype=torch.int64)
    sample = sample_of(labels, labels, seg_logits=torch.rand(150, 64, 64))
    written([sample] * 3, tmp_path)
    assert (tmp_path / 'predictions.npz').stat().st_size < 3 * 64 * 64


def test_a_data_set_without_truth(tmp_path):
    content = written([sample_of([[0, 1]])], tmp_path)
    assert content['images'][0]['truth'] is None


def test_negative_labels_are_refused(tmp_path):
    with pytest.raises(ValueError, match='label -1 of a segmentation map is negative'):
        written([sample_of([[0, -1]])], tmp_path)


def test_configs_find_it_by_name():
    for kind in (DumpSegResults, DumpDetections):
        assert type(METRICS.build(dict(type=kind.__name__, out_file_path='a.npz'))) is kind
        with pytest.raises(ValueError, match="'a.json' must end in .npz"):
            kind('a.json')


def test_truth_is_what_the_metric_sees_with_reduce_zero_label(tmp_path):
    """ADE20K: 0 is 'other' and does not count; the classes begin at 1 in the files."""
    rng = np.random.default_rng(0)
    cv2.imwrite(str(tmp_path / 'truth.png'), rng.integers(0, 4, (8, 8), np.uint8))
    loaded = LoadAnnotations(reduce_zero_label=True)(
        dict(seg_map_path=str(tmp_path / 'truth.png'), reduce_zero_label=True, seg_fields=[])
    )
    sample = sample_of(rng.integers(0, 3, (8, 8)), loaded['gt_seg_map'].astype(np.int64))
    classes = tuple('abc')
    content = written([sample], tmp_path, classes)
    assert 255 in decode_labels(content['images'][0]['truth'])
    metric = IoUMetric()
    metric.dataset_meta = dict(classes=classes)
    metric.process(None, [sample.to_dict()])
    expected = metric.compute_metrics(metric.results)['mIoU']
    scorer = SegmentationScorer(content['images'], len(classes))
    assert 100 * scorer.total == pytest.approx(expected, abs=0.006)


@pytest.mark.parametrize('png', [b'', b'no picture', cv2.imencode('.png', np.zeros((2, 2, 3)))[1]])
def test_what_is_no_label_map(png):
    with pytest.raises(UserError, match='no PNG file with one channel'):
        decode_labels(bytes(png))


def detections(rng, count):
    """A detector's sample, as MMEngine gives it to metrics."""
    masks = torch.tensor(rng.random((count, 5, 7)) < 0.5)
    if count:
        masks[0] = False
        masks[-1] = True
    found = dict(
        bboxes=torch.tensor(rng.random((count, 4)), dtype=torch.float32),
        scores=torch.tensor(rng.random(count), dtype=torch.float32),
        labels=torch.tensor(rng.integers(0, 3, count)),
        masks=masks,
    )
    return dict(img_id=int(rng.integers(1, 1 << 40)), pred_instances=found, gt_instances=dict())


@pytest.mark.parametrize('counts', [(3, 0, 2), (0, 0), (1,), ()])
@pytest.mark.parametrize('with_masks', [True, False])
def test_detections_are_those_of_mmdets_pickle(counts, with_masks, tmp_path):
    rng = np.random.default_rng(0)
    samples = [detections(rng, count) for count in counts]
    for sample in samples:
        if not with_masks:
            del sample['pred_instances']['masks']
    for metric in (
        DumpDetections(str(tmp_path / 'a.npz')),
        DumpDetResults(str(tmp_path / 'a.pkl')),
    ):
        metric.process(None, copy.deepcopy(samples))
        metric.evaluate(len(samples))
    found = read_predictions(tmp_path / 'a.npz')
    with trusting(True):
        expected = read_predictions(tmp_path / 'a.pkl')
    assert [image['img_id'] for image in found] == [image['img_id'] for image in expected]
    for mine, theirs in zip(found, expected, strict=True):
        mine, theirs = mine['pred_instances'], theirs['pred_instances']
        assert set(mine) == set(theirs)
        assert mine.pop('masks', None) == theirs.pop('masks', None)
        for name in mine:
            assert mine[name].dtype == theirs[name].numpy().dtype
            np.testing.assert_array_equal(mine[name], theirs[name].numpy())


@pytest.mark.parametrize(
    ('change', 'words'),
    [(dict(img_id='a'), "has the id 'a', no integer"), (dict(img_id=None), 'has the id None')],
)
def test_detections_that_have_no_place_in_the_file(change, words, tmp_path):
    metric = DumpDetections(str(tmp_path / 'a.npz'))
    metric.process(None, [detections(np.random.default_rng(0), 1) | change])
    with pytest.raises(UserError, match=words):
        metric.evaluate(1)
    with pytest.raises(UserError, match='predicts no instances'):
        metric.process(None, [dict(img_id=1, pred_panoptic_seg=dict())])
