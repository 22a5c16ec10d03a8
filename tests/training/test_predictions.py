"""The file of a segmentor's label maps."""

import io
import pickle

import cv2
import numpy as np
import pytest
import torch
from mmengine.evaluator import Evaluator
from mmengine.registry import METRICS
from mmengine.structures import PixelData
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.evaluation import IoUMetric
from mmseg.structures import SegDataSample
from PIL import Image

from mambaout_mm.comparison.runs.bootstrap import SegmentationScorer
from mambaout_mm.errors import UserError
from mambaout_mm.training.predictions import DumpSegResults, decode_labels, read_predictions


def sample_of(prediction, truth=None, path='folder/a.png', **fields):
    sample = SegDataSample(metainfo=dict(img_path=path))
    sample.pred_sem_seg = PixelData(data=torch.as_tensor(prediction)[None])
    if truth is not None:
        sample.gt_sem_seg = PixelData(data=torch.as_tensor(truth)[None])
    sample.set_data({key: PixelData(data=value) for key, value in fields.items()})
    return sample


def written(samples, folder, classes=('sky', 'road')):
    """What the file holds after MMEngine's evaluator has run over the samples."""
    evaluator = Evaluator([DumpSegResults(str(folder / 'predictions.pkl'))])
    evaluator.dataset_meta = dict(classes=classes)
    for sample in samples:
        evaluator.process([sample])
    evaluator.evaluate(len(samples))
    return read_predictions(folder / 'predictions.pkl')


@pytest.mark.parametrize(('highest', 'dtype'), [(1, 'uint8'), (255, 'uint8'), (256, 'uint16')])
def test_label_maps_come_back(highest, dtype, tmp_path):
    prediction = np.array([[0, highest, 1], [1, 1, 0]], np.int64)
    content = written([sample_of(prediction, prediction.T)], tmp_path)
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
    assert (tmp_path / 'predictions.pkl').stat().st_size < 3 * 64 * 64


def test_a_data_set_without_truth(tmp_path):
    content = written([sample_of([[0, 1]])], tmp_path)
    assert content['images'][0]['truth'] is None


def test_negative_labels_are_refused(tmp_path):
    with pytest.raises(ValueError, match='label -1 of a segmentation map is negative'):
        written([sample_of([[0, -1]])], tmp_path)


def test_configs_find_it_by_name():
    metric = METRICS.build(dict(type='DumpSegResults', out_file_path='a.pkl'))
    assert isinstance(metric, DumpSegResults)


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


@pytest.mark.parametrize('content', [b'', b'no pickle', pickle.dumps([1] * 99)[:-40]])
def test_a_broken_file(content, tmp_path):
    (tmp_path / 'predictions.pkl').write_bytes(content)
    with pytest.raises(UserError, match=r'predictions.pkl cannot be read .* tools/test.py --out'):
        read_predictions(tmp_path / 'predictions.pkl')
