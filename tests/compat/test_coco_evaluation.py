"""faster-coco-eval in place of pycocotools: the same scores from mmdet's metric."""

import json
import subprocess
import sys

import pytest
from support import ROOT

from mambaout_mm.compat import coco_evaluation

CODE = """
import json, sys
from mambaout_mm.compat.coco_evaluation import use_faster_coco_eval
stands_in = sys.argv[1] == 'faster' and use_faster_coco_eval()
import numpy as np, torch
from mmdet.evaluation import CocoMetric
from pycocotools import mask

random = np.random.default_rng(0)

def boxes(count):
    corner, size = random.uniform(0, 60, (count, 2)), random.uniform(5, 60, (count, 2))
    return np.concatenate((corner, corner + size), axis=1)

def masks(boxes):
    pictures = np.zeros((len(boxes), 128, 128), dtype=bool)
    for picture, (x, y, right, bottom) in zip(pictures, boxes.astype(int)):
        picture[y:bottom, x:right] = True
    return pictures

metric = CocoMetric(metric=['bbox', 'segm'])
metric.dataset_meta = dict(classes=('a', 'b', 'c'))
for number in range(12):
    truth = boxes(6)
    found = np.concatenate((truth + random.normal(0, 4, truth.shape), boxes(5)))
    labels = random.integers(0, 3, 6)
    instances = [
        dict(bbox=box, bbox_label=label, ignore_flag=0, mask=mask.encode(np.asfortranarray(shape)))
        for box, label, shape in zip(truth, labels, masks(truth))
    ]
    predicted = dict(
        bboxes=torch.tensor(found),
        scores=torch.tensor(random.random(11)),
        labels=torch.tensor(np.concatenate((labels, random.integers(0, 3, 5)))),
        masks=torch.tensor(masks(found.clip(0, 127))),
    )
    sample = dict(img_id=number, ori_shape=(128, 128), pred_instances=predicted)
    metric.process({}, [sample | dict(instances=instances)])
print(json.dumps([stands_in, metric.evaluate(12)]))
"""


def scores(library):
    command = [sys.executable, '-c', CODE, library]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_scores_are_the_same():
    pytest.importorskip('faster_coco_eval')
    plain, faster = scores('pycocotools'), scores('faster')
    assert (plain[0], faster[0]) == (False, True)
    assert plain[1] == faster[1]
    assert 0.1 < plain[1]['coco/bbox_mAP'] < 0.9


def test_nothing_happens_where_it_is_not_installed(monkeypatch):
    monkeypatch.setattr(coco_evaluation, 'find_spec', lambda name: None)
    before = sys.modules.get('pycocotools')
    assert not coco_evaluation.use_faster_coco_eval()
    assert sys.modules.get('pycocotools') is before


def test_what_is_imported_already_stays(monkeypatch):
    pytest.importorskip('faster_coco_eval')
    theirs = object()
    monkeypatch.setitem(sys.modules, 'pycocotools', theirs)
    assert not coco_evaluation.use_faster_coco_eval()
    assert sys.modules['pycocotools'] is theirs
