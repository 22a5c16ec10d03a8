"""Prediction files that are not whole, or hold anything else."""

import io
import pickle
import resource

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mambaout_mm.errors import UserError
from mambaout_mm.training.prediction_files import (
    read_predictions,
    write_detections,
    write_label_maps,
)
from mambaout_mm.trust import trusting


def write_both(folder):
    """A file of detections with masks and one of label maps."""
    rng = np.random.default_rng(0)
    images = []
    for i in (7, 8):
        masks = np.asfortranarray(rng.random((6, 9, 3)) < 0.5, np.uint8)
        found = dict(
            bboxes=rng.random((3, 4), np.float32),
            scores=rng.random(3, np.float32),
            labels=np.arange(3),
            masks=coco_mask.encode(masks),
        )
        images.append(dict(img_id=i, pred_instances=found))
    write_detections(folder / 'detections.npz', images)
    maps = [dict(img_path=f'{i}.png', prediction=b'png', truth=b'other') for i in range(2)]
    write_label_maps(folder / 'maps.npz', ['a', 'b'], maps)
    return images


def changed(path, **arrays):
    """The file with other arrays; without those that are None."""
    with np.load(path) as file:
        content = {**file, **arrays}
    np.savez(path, **{name: array for name, array in content.items() if array is not None})


def test_run_lengths_that_pycocotools_writes_are_taken(tmp_path):
    """Masks of every kind of beginning, end and number of runs, small and large."""
    rng = np.random.default_rng(0)
    masks = []
    for _ in range(200):
        side = rng.integers(1, 40, 2)
        masks.append(coco_mask.encode(np.asfortranarray(rng.random(side) < rng.random(), np.uint8)))
    large = np.zeros((2000, 3000, 2), np.uint8, order='F')
    large[500:1700, 900:2500, 0] = 1
    masks += coco_mask.encode(large)
    found = dict(
        bboxes=np.zeros((len(masks), 4), np.float32),
        scores=np.zeros(len(masks), np.float32),
        labels=np.zeros(len(masks), int),
        masks=masks,
    )
    write_detections(tmp_path / 'a.npz', [dict(img_id=1, pred_instances=found)])
    (image,) = read_predictions(tmp_path / 'a.npz')
    assert image['pred_instances']['masks'] == masks


def refused(path, words=''):
    words = (
        f'^.*{path.name} cannot be read as predictions .*{words}.* anew with tools/test.py --out'
    )
    with pytest.raises(UserError, match=words) as error:
        read_predictions(path)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    ('arrays', 'words'),
    [
        (dict(scores=None), "no array 'scores'"),
        (dict(scores=np.zeros((6, 1))), "'scores' holds float64 of shape"),
        (dict(scores=np.arange(6)), 'int64 of shape .6,., not numbers'),
        (dict(scores=np.full(6, np.nan)), 'scores are finite'),
        (dict(scores=np.array([None] * 6)), 'allow_pickle=False'),
        (dict(boxes=np.zeros((5, 4))), "'boxes' holds .*, not numbers, 6 x 4"),
        (dict(labels=np.zeros(6)), "'labels' holds float64"),
        (dict(image_ids=np.array(['7', '8'])), "'image_ids' holds <U1"),
        (dict(image_ids=np.array([7, 7])), 'an image is there twice'),
        (dict(offsets=np.array([0, 3])), "'offsets' holds"),
        (dict(offsets=np.array([0, 3, 7])), "'offsets' does not divide the 6"),
        (dict(offsets=np.array([0, 9, 6])), "'offsets' does not divide the 6"),
        (dict(offsets=np.array([-1, 3, 6])), "'offsets' does not divide the 6"),
        (dict(mask_offsets=None), "no array 'mask_offsets'"),
        (dict(mask_counts=np.zeros(3, np.int8)), 'int8 of shape .3,., not bytes'),
        (dict(mask_sizes=np.full((6, 2), 6)), 'do not fill them'),
        (dict(mask_sizes=np.full((6, 2), 1 << 40)), 'do not fill them'),
        (dict(mask_sizes=np.zeros((6, 2), int)), 'do not fill them'),
    ],
)
def test_detections_that_are_odd(arrays, words, tmp_path):
    write_both(tmp_path)
    changed(tmp_path / 'detections.npz', **arrays)
    refused(tmp_path / 'detections.npz', words)


@pytest.mark.parametrize('place', [0, 5, -1])
@pytest.mark.parametrize('byte', [0, 47, 49, 80, 111, 112, 255])
def test_run_lengths_that_do_not_fill_their_mask(place, byte, tmp_path):
    """pycocotools reads past the end of these, and the process may end."""
    write_both(tmp_path)
    with np.load(tmp_path / 'detections.npz') as file:
        counts = file['mask_counts']
    before, counts[place] = counts[place], byte
    changed(tmp_path / 'detections.npz', mask_counts=counts)
    assert before != byte
    refused(tmp_path / 'detections.npz', 'do not fill them')


@pytest.mark.parametrize(
    ('arrays', 'words'),
    [
        (dict(classes=None), "no array 'classes'"),
        (dict(classes=np.zeros(2)), "'classes' holds float64"),
        (dict(predictions=None), "no array 'predictions'"),
        (dict(predictions=np.zeros(2, np.uint8)), "'prediction_offsets' does not divide the 2"),
        (dict(truth_offsets=np.zeros(3)), "'truth_offsets' holds float64"),
        (dict(image_paths=np.array(['a'])), "'prediction_offsets' holds"),
    ],
)
def test_label_maps_that_are_odd(arrays, words, tmp_path):
    write_both(tmp_path)
    changed(tmp_path / 'maps.npz', **arrays)
    refused(tmp_path / 'maps.npz', words)


@pytest.mark.parametrize('name', ['detections.npz', 'maps.npz'])
def test_files_that_are_cut_or_damaged(name, tmp_path):
    write_both(tmp_path)
    path = tmp_path / name
    whole = path.read_bytes()
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        refused(path)
    for place in range(0, len(whole), 97):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
        try:
            read_predictions(path)  # what does not matter may have been hit, such as a date
        except UserError as error:
            assert 'cannot be read as predictions' in str(error)


def npy():
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


@pytest.mark.parametrize('content', [b'', b'PK', b'text', pickle.dumps([1]), npy()])
def test_other_files_of_that_name(content, tmp_path):
    (tmp_path / 'predictions.npz').write_bytes(content)
    refused(tmp_path / 'predictions.npz')


class Touching:
    """A pickle that makes a file as it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), 'w')


def test_a_pickle_is_read_only_where_it_is_trusted(tmp_path):
    path = tmp_path / 'predictions.pkl'
    path.write_bytes(pickle.dumps(Touching(tmp_path / 'trace')))
    with pytest.raises(UserError, match=r'predictions.pkl is a pickle, .*say --trust'):
        read_predictions(path)
    assert not (tmp_path / 'trace').exists()
    with trusting(True):
        read_predictions(path)
        assert (tmp_path / 'trace').exists()
        for content in (b'', b'no pickle', pickle.dumps([1] * 99)[:-40]):
            path.write_bytes(content)
            refused(path)


def test_a_full_disk_leaves_the_predictions_that_were_there(tmp_path):
    images = write_both(tmp_path)
    size = (tmp_path / 'detections.npz').stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in range(0, size, size // 10):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        try:
            with pytest.raises(UserError, match=r"detections.npz' cannot be written"):
                write_detections(tmp_path / 'detections.npz', images)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(read_predictions(tmp_path / 'detections.npz')) == 2
    assert len(list(tmp_path.iterdir())) == 2
