"""The page of a study, of runs that were written by hand."""

import json

import cv2
import numpy as np
import pytest
from support_browser import Visit, chromium
from support_runs import SEGMENTATION, write_start

from mambaout_mm.study.plan import Candidate, tasks_of
from mambaout_mm.study.report import read_study, where_it_sits, write_study
from mambaout_mm.training.prediction_files import write_detections, write_label_maps

SIDE, COUNT = 48, 8
CLASSES = ('sky', 'road', 'tree')
BOX = [8.0, 8.0, 30.0, 30.0]


def png(labels):
    return cv2.imencode('.png', labels.astype(np.uint8))[1].tobytes()


def segmentor(folder, flaws):
    """A run's log and predictions, in which a share of the pixels of each class is wrong."""
    write_start(folder, '20261121_150000', (30.0, 40.0), base=SEGMENTATION)
    images = []
    for i in range(COUNT):
        rng = np.random.default_rng(i)
        truth = rng.integers(0, 3, (6, 6)).repeat(8, 0).repeat(8, 1)  # (SIDE, SIDE)
        flawed = rng.random((SIDE, SIDE)) < np.array(flaws)[truth]
        prediction = np.where(flawed, (truth + 1) % 3, truth)
        path = folder.parent.parent / f'{i}.jpg'
        cv2.imwrite(str(path), (80 * truth[..., None].repeat(3, -1)).astype(np.uint8))
        images.append(dict(img_path=str(path), truth=png(truth), prediction=png(prediction)))
    write_label_maps(folder / 'predictions.npz', CLASSES, images)


@pytest.fixture(scope='module')
def study(tmp_path_factory):
    """'b' is worse than 'a' at roads; 'c' was not started, one seed of 'b' failed."""
    out = tmp_path_factory.mktemp('study')
    candidates = [Candidate(name, out / 'c.py', f'cost of {name}') for name in 'abc']
    tasks = tasks_of(candidates, 3, out)
    for task in tasks:
        if task.candidate.name == 'a' or (task.candidate.name == 'b' and task.seed < 2):
            share = 0.1 + 0.01 * task.seed
            roads = share if task.candidate.name == 'a' else 0.4 + share
            segmentor(task.folder, (share, roads, share))
    failed = next(task for task in tasks if task.name == 'b/seed2')
    failed.folder.mkdir(parents=True)
    (failed.folder / 'failed.txt').write_text('out of memory\n')
    return read_study(tasks), out


def test_states_say_what_there_is(study):
    found, _ = study
    assert found.states['a/seed0'] == found.states['b/seed1'] == 'done'
    assert found.states['b/seed2'] == 'failed: out of memory'
    assert found.states['c/seed0'] == 'not started'


def test_the_effect_is_of_the_seeds_that_both_have(study):
    (effect,) = study[0].effects
    assert (effect.candidate, effect.reference, effect.metric, effect.seeds) == (
        'b',
        'a',
        'mIoU',
        2,
    )
    assert effect.value < -10 and effect.settled


def test_it_says_in_which_class_the_difference_sits(study):
    classes, sizes = where_it_sits(study[0], 'b', 'mIoU')
    assert {where.part for where in classes} == set(CLASSES) and not sizes
    assert classes[0].part == 'road' and classes[0].candidate < classes[0].reference - 20


def test_the_page_shows_answer_failures_and_pictures(study):
    found, out = study
    sentences = write_study(found, 'A <study>', out)
    page = (out / 'report.html').read_text()
    assert sentences == [found.effects[0].sentence] and 'b is worse than a here' in sentences[0]
    assert 'A &lt;study&gt;' in page and 'b/seed2: failed: out of memory' in page
    assert 'cost of b' in page and page.count('<figcaption>truth</figcaption>') == 6
    rows = (out / 'study.csv').read_text().splitlines()
    assert len(rows) == 1 + 9 and any(row.startswith('c,0,not started') for row in rows)


@pytest.mark.parametrize('width', [400, 1280])
def test_the_page_can_be_read_in_chromium(study, width):
    found, out = study
    write_study(found, 'A study', out)
    with chromium() as browser:
        visit = Visit(browser, out / 'report.html', viewport=dict(width=width, height=800))
        assert visit.page.evaluate('document.documentElement.scrollWidth') <= width
        loaded = "Array.from(document.images).map(i => {i.loading = 'eager'; return i.decode()})"
        visit.page.evaluate(f'Promise.all({loaded})')
        assert not visit.errors
        assert [url for url in visit.requests if not url.startswith(('file:', 'data:'))] == []


def test_a_study_without_a_result_says_so(tmp_path):
    tasks = tasks_of([Candidate(name, tmp_path / 'c.py', '') for name in 'ab'], 1, tmp_path)
    assert write_study(read_study(tasks), 'A study', tmp_path) == []
    assert 'None yet: a and at least one other candidate' in (tmp_path / 'report.html').read_text()


def test_candidates_without_a_common_seed_have_no_effect_and_no_pictures(tmp_path):
    tasks = tasks_of([Candidate(name, tmp_path / 'c.py', '') for name in 'ab'], 2, tmp_path)
    for task in tasks:
        if task.name in ('a/seed0', 'b/seed1'):
            segmentor(task.folder, (0.1, 0.1, 0.1))
    assert write_study(read_study(tasks), 'A study', tmp_path) == []
    page = (tmp_path / 'report.html').read_text()
    assert 'must be done with the same seed' in page and '<figcaption>' not in page


def test_of_one_seed_nobody_knows_how_far_seeds_scatter(tmp_path):
    tasks = tasks_of([Candidate(name, tmp_path / 'c.py', '') for name in 'ab'], 1, tmp_path)
    for task, share in zip(tasks, (0.1, 0.3), strict=True):
        segmentor(task.folder, (share, share, share))
    write_study(read_study(tasks), 'A study', tmp_path)
    page = (tmp_path / 'report.html').read_text()
    assert page.count('<td>unknown</td>') == 2
    assert '>nan<' not in page and '>more images<' not in page


def detector(folder, truth, found):
    """A run's log and predictions; ``found`` has the boxes of each image."""
    options = dict(
        test_dataloader=dict(
            dataset=dict(
                type='CocoDataset',
                ann_file=str(truth),
                data_prefix=dict(img=str(truth.parent)),
                metainfo=dict(classes=('cup', 'plate')),
            )
        ),
        test_evaluator=dict(type='CocoMetric', ann_file=str(truth)),
    )
    write_start(folder, '20261121_150000', (0.1, 0.2), options=options)
    images = []
    for image_id, boxes in enumerate(found, 1):
        boxes = np.array(boxes, np.float32).reshape(-1, 4)
        instances = dict(
            bboxes=boxes,
            scores=np.full(len(boxes), 0.9, np.float32),
            labels=np.zeros(len(boxes), int),
        )
        images.append(dict(img_id=image_id, pred_instances=instances))
    write_detections(folder / 'predictions.npz', images)


def test_a_detectors_page_has_sizes_and_boxes(tmp_path):
    x1, y1, x2, y2 = BOX
    annotation = dict(
        category_id=1, bbox=[x1, y1, x2 - x1, y2 - y1], area=(x2 - x1) * (y2 - y1), iscrowd=0
    )
    truth = dict(
        info={},
        images=[dict(id=i, width=64, height=64, file_name=f'{i}.jpg') for i in (1, 2)],
        categories=[dict(id=i, name=n) for i, n in ((1, 'cup'), (5, 'plate'), (7, 'fork'))],
        # The config has no fork: it is no truth, and its box is not drawn as a cup's.
        annotations=[
            dict(annotation, id=9, image_id=2, category_id=7),
            *(dict(annotation, id=i, image_id=i) for i in (1, 2)),
        ],
    )
    (tmp_path / 'val.json').write_text(json.dumps(truth))
    for i in (1, 2):
        cv2.imwrite(str(tmp_path / f'{i}.jpg'), np.full((64, 64, 3), 90, np.uint8))
    tasks = tasks_of([Candidate(name, tmp_path / 'c.py', '') for name in 'ab'], 1, tmp_path / 'o')
    detector(tasks[0].folder, tmp_path / 'val.json', [[BOX], [BOX]])
    detector(tasks[1].folder, tmp_path / 'val.json', [[BOX], []])
    study = read_study(tasks)
    classes, sizes = where_it_sits(study, 'b', 'box AP')
    assert [(where.part, where.reference) for where in sizes] == [('small objects', 100)]
    assert [where.part for where in classes] == ['cup']
    write_study(study, 'A study', tmp_path / 'o')
    page = (tmp_path / 'o' / 'report.html').read_text()
    assert '2.jpg: b 0.0,\na 100.0' in page and '1.jpg: b' not in page
    assert page.count('<figure>') == 3  # truth and both predictions
