"""The user's own trainings as records: scores, means over seeds, differences."""

import math
import pickle
import re
from functools import partial

import cv2
import numpy as np
import pytest
from support_runs import SEGMENTATION, write_run

from mambaout_mm.comparison.records import to_frame
from mambaout_mm.comparison.sections.runs import run_records
from mambaout_mm.errors import UserError
from mambaout_mm.training.prediction_files import write_label_maps
from mambaout_mm.trust import trusting


@pytest.fixture
def make_run(tmp_path):
    return partial(write_run, tmp_path)


def test_final_and_best(make_run):
    records = run_records([make_run('a')])
    found = {(r.quantity, r.setting): (r.value, r.note) for r in records}
    assert found == {
        ('box AP', 'final'): (20, 'epoch 3; one seed: no spread'),
        ('box AP', 'best'): (30, 'epoch 2, chosen by box AP on the validation set itself'),
        ('mask AP', 'final'): (10, 'epoch 3; one seed: no spread'),
        ('mask AP', 'best'): (15, 'epoch 2, chosen by box AP on the validation set itself'),
    }
    assert {(r.section, r.origin, r.model, r.unit) for r in records} == {
        ('runs', 'run', 'Mask R-CNN', '%')
    }
    assert len(to_frame(records)) == 4


def test_scores_of_segmentation(make_run):
    records = run_records([make_run('a', [40.0, 42.5], base=SEGMENTATION)])
    assert (records[0].backbone, records[0].quantity, records[0].value) == ('a', 'mIoU', 42.5)
    assert records[0].model == 'UperNet'
    assert [r.quantity for r in records[::2]] == ['mIoU', 'mAcc', 'aAcc']


def test_a_run_that_stopped_says_so(make_run):
    (final, *_) = run_records([make_run('a', options=dict(train_cfg=dict(max_epochs=4)))])
    assert 'stopped at epoch 3 of 4' in final.note


def test_a_run_without_validation_says_so(make_run):
    folder = make_run('a', [None, None])
    final, best, *masks = run_records([folder])
    assert math.isnan(final.value) and math.isnan(best.value)
    assert final.note.startswith('the log has no validation; stopped at epoch 1 of 3')
    assert [r.quantity for r in masks] == ['mask AP'] * 2


def test_one_validation_and_one_without_objects(make_run):
    (final, best, *_) = run_records([make_run('a', [0.3], options={'train_cfg.max_epochs': 1})])
    assert final.note == 'epoch 1, the only validation; one seed: no spread'
    assert best.note == 'epoch 1, the only validation'
    final, best, *_ = run_records([make_run('b', [0.1, 0.3, -1.0])])
    assert math.isnan(final.value) and 'no number for box AP' in final.note
    assert best.value == 30


def test_a_score_that_is_nan_is_no_number(make_run):
    final, *_ = run_records([make_run('a', [0.1, 0.3, math.nan])])
    assert math.isnan(final.value) and 'no number for box AP' in final.note


@pytest.mark.parametrize(
    'options',
    [
        {'model': None}, {'model.backbone.init_cfg': [dict(type='Constant'), dict(checkpoint='a')]},
        {'model.decode_head': [dict(type='FCNHead')]}, {'param_scheduler': None},
        {'optim_wrapper': None}, {'train_cfg': None}, {'val_evaluator': 'text'},
        {'default_hooks': None},
    ],
)  # fmt: skip
def test_configs_with_less_or_other_things_are_compared(options, make_run):
    assert run_records([make_run('a'), make_run('b', options=options)])


@pytest.mark.parametrize('value', [['text'], [[1]]])
def test_configs_that_cannot_be_compared_are_named(value, make_run):
    runs = [make_run('a'), make_run('b', options={'param_scheduler': value})]
    with pytest.raises(UserError, match=r'configs of .*a/.*config.py, .*b/.* cannot be compared: '):
        run_records(runs)


def test_each_run_is_named_once(make_run, tmp_path):
    folder = make_run('maskrcnn')
    with pytest.raises(UserError, match=r"--runs names '.*maskrcnn' twice"):
        run_records([folder, tmp_path / 'other' / '..' / 'maskrcnn'])


def test_names_are_as_long_as_they_must_be(make_run):
    records = run_records([make_run('x/swin/a'), make_run('y/vit/a', processes=8)])
    assert {r.backbone for r in records} == {'swin/a', 'vit/a'}


def test_seeds_of_one_recipe_give_mean_and_spread(make_run):
    folders = [
        make_run('a', (0.1, 0.40), seed=1, options={'train_cfg.max_epochs': 2}),
        make_run('b', (0.1, 0.42), seed=2, options={'train_cfg.max_epochs': 2}),
        make_run('other', (0.1, 0.42), seed=2),
        make_run('c', (0.44,), seed=3, options={'train_cfg.max_epochs': 2}),
    ]
    records = run_records(folders)
    (mean,) = [r for r in records if r.setting == 'mean of 3 seeds' and r.quantity == 'box AP']
    assert (mean.backbone, mean.value, mean.low, mean.high) == ('a + b + c', 42, 40, 44)
    assert mean.note == (
        'final: 40.00, 42.00, 44.00; standard deviation 2.00; low and high are the extremes; '
        'c stopped at epoch 1 of 2'
    )
    assert not any('one seed' in r.note for r in records if r.backbone in 'abc')
    (difference,) = [
        r for r in records if r.quantity == 'box AP' and r.setting.startswith('difference')
    ]
    assert (difference.backbone, difference.setting) == ('other', 'difference to a + b + c')
    assert difference.value == pytest.approx(0)
    assert difference.note.endswith('recipe, this / other: schedule 3 epochs / 2 epochs')


def test_the_same_seed_twice_is_no_second_seed(make_run):
    records = run_records([make_run('a'), make_run('b')])
    (mean,) = [r for r in records if r.setting == 'mean of 2 runs' and r.quantity == 'box AP']
    assert 'the logs do not show as many different seeds' in mean.note


def test_no_mean_where_a_seed_has_no_score(make_run):
    records = run_records([make_run('a'), make_run('b', [None] * 3, seed=2)])
    (mean,) = [r for r in records if r.setting == 'mean of 2 seeds' and r.quantity == 'box AP']
    assert math.isnan(mean.value)
    assert mean.note == 'no final box AP of b'


def test_difference_without_predictions_names_the_command(make_run):
    a, b = make_run('a'), make_run('b', (0.2, 0.25), processes=8)
    (a / 'last_checkpoint').write_text('/moved/since/a/epoch_3.pth')
    boxes, masks = (r for r in run_records([a, b]) if r.setting == 'difference to a')
    assert (boxes.backbone, boxes.value, boxes.quantity) == ('b', 5, 'box AP')
    assert masks.value == pytest.approx(2.5)
    assert math.isnan(boxes.low)
    config = b / '20261121_150000' / 'vis_data' / 'config.py'
    command = f'`python tools/test.py {config} CHECKPOINT --out {b}/predictions.npz`'
    assert command in boxes.note
    (a / 'predictions.npz').write_bytes(b'broken')
    boxes, _ = (r for r in run_records([a, b]) if r.setting == 'difference to a')
    (b / 'predictions.npz').write_bytes(b'broken')
    boxes, _ = (r for r in run_records([b, a]) if r.setting == 'difference to b')
    assert boxes.note.startswith('no bootstrap: ')
    assert 'a/predictions.npz cannot be read' in boxes.note


def test_an_old_pickle_is_read_only_where_it_is_trusted(make_run):
    rng = np.random.default_rng(0)
    folders = [make_run(n, [60.0], base=SEGMENTATION, processes=p) for n, p in (('a', 4), ('b', 8))]
    for folder in folders:
        (folder / 'predictions.pkl').write_bytes(pickle.dumps(label_maps(rng, 0.2)))
    note = run_records(folders)[-1].note
    assert note.startswith('no bootstrap: ')
    assert 'b/predictions.npz is not there' in note and 'say --trust' in note
    assert re.search(r'make it with `python tools/test.py .*b/predictions.npz`', note)
    with trusting(True):
        assert not math.isnan(run_records(folders, resamples=10)[-1].low)


def test_detection_and_segmentation_have_no_difference(make_run):
    records = run_records([make_run('a'), make_run('b', [40.0], base=SEGMENTATION)])
    assert not any(r.setting.startswith('difference') for r in records)


def label_maps(rng, flaw, count=20):
    """Predictions of two classes, as DumpSegResults keeps them, with a share of wrong pixels."""
    truths = np.random.default_rng(0).integers(0, 2, (count, 16, 16), np.uint8)
    images = []
    for i, truth in enumerate(truths):
        prediction = truth ^ (rng.random(truth.shape) < flaw)
        prediction, truth = (cv2.imencode('.png', m)[1].tobytes() for m in (prediction, truth))
        images.append(dict(img_path=f'{i}.png', prediction=prediction, truth=truth))
    return dict(classes=('a', 'b'), images=images)


def test_difference_with_a_bootstrap_interval(make_run):
    """Two seeds of a recipe against another, and one more that is hardly another."""
    rng = np.random.default_rng(0)
    scores = (('a', 80.0), ('b', 60.0), ('c', 60.0), ('d', 60.0))
    for seed, ((name, score), flaw) in enumerate(zip(scores, (0.1, 0.2, 0.2, 0.2), strict=True)):
        options = {'optim_wrapper.optimizer.lr': {'a': 0.1, 'd': 0.2}.get(name, 0.01)}
        folder = make_run(name, [score], base=SEGMENTATION, options=options, seed=seed)
        write_label_maps(folder / 'predictions.npz', **label_maps(rng, flaw))
    folder = folder.parent
    records = run_records([folder / name for name in 'abcd'], resamples=100)
    found = {(r.backbone, r.setting): r for r in records if r.setting.startswith('difference')}
    assert list(found) == [
        ('b + c', 'difference to a'), ('d', 'difference to a'), ('d', 'difference to b + c'),
    ]  # fmt: skip
    worse = found['b + c', 'difference to a']
    # IoU is (1 - flaw) / (1 + flaw): 0.82 and 0.67
    assert worse.value == pytest.approx(100 * (0.8 / 1.2 - 0.9 / 1.1), abs=2)
    assert worse.low < worse.value < worse.high < 0
    assert worse.note.startswith(
        'more than the noise of the test images: the interval leaves out 0; 95 % over 100 draws of'
    )
    assert (
        'of the 20 test images, the sign flips in 0.0%; training noise is not in it' in worse.note
    )
    assert 'the predictions of a score 8' in worse.note  # the log says 80.00
    assert worse.note.endswith('recipe, this / other: optimizer lr 0.01 / lr 0.1')
    same = found['d', 'difference to b + c']
    assert same.low < 0 < same.high
    assert same.note.startswith(
        'not more than the noise of the test images: the interval contains 0'
    )
    again = run_records([folder / name for name in 'abcd'], resamples=100)
    assert str(again[-1]) == str(records[-1])  # as text, in which NaN is itself


def test_other_images_give_the_reason_in_place_of_an_interval(make_run):
    rng = np.random.default_rng(0)
    folders = [make_run(n, [60.0], base=SEGMENTATION, processes=p) for n, p in (('a', 4), ('b', 8))]
    for folder, count in zip(folders, (20, 19), strict=True):
        write_label_maps(folder / 'predictions.npz', **label_maps(rng, 0.2, count))
    difference = run_records(folders)[-1]
    assert (difference.value, difference.setting) == (0, 'difference to a')
    assert math.isnan(difference.low)
    assert difference.note.startswith('no bootstrap: the runs do not have predictions of the same')
    assert "has image '19.png'" in difference.note
