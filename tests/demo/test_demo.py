"""The embedded data set, and two iterations and an evaluation of the configs on it."""

import inspect
import json
import re

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.runner import Runner
from pycocotools.coco import COCO
from support import CONFIGS, two_iterations

from mambaout_mm.demo import apply_demo, report, shapes
from mambaout_mm.demo.settings import SIZE
from mambaout_mm.errors import UserError


def annotations_in(root, split):
    content = json.loads((root / 'annotations' / f'instances_{split}.json').read_text())
    return len(content['annotations'])


def test_data_set_is_the_same_everywhere_and_consistent(demo_data):
    root = shapes.write_shapes(demo_data, SIZE)
    for split, count in shapes.SPLITS.items():
        coco = COCO(str(root / 'annotations' / f'instances_{split}.json'))
        assert len(coco.imgs) == count
        assert [c['name'] for c in coco.cats.values()] == list(shapes.CLASSES)
        for image_id in list(coco.imgs)[:20]:
            name = coco.imgs[image_id]['file_name']
            labels = cv2.imread(str(root / 'labels' / split / name), cv2.IMREAD_GRAYSCALE)
            assert labels.shape == (SIZE, SIZE)
            for annotation in coco.imgToAnns[image_id]:
                mask = coco.annToMask(annotation).astype(bool)
                assert (labels[mask] == annotation['category_id']).all()
                ys, xs = np.nonzero(mask)
                corner = [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]
                assert annotation['bbox'] == corner
                assert annotation['area'] == mask.sum()
    counts = {split: annotations_in(root, split) for split in shapes.SPLITS}
    assert counts == {'train': 1186, 'val': 136}, 'the drawings changed: raise shapes.VERSION'
    first = cv2.imread(str(root / 'images' / 'train' / '0000.png'))
    again, _, _ = shapes.draw(np.random.default_rng([0, 0]), SIZE)
    assert np.array_equal(first, again)


def test_data_set_appears_only_when_complete(tmp_path, monkeypatch):
    monkeypatch.setattr(shapes, 'SPLITS', {'train': 3, 'val': 2})

    def stop(*args):
        raise KeyboardInterrupt

    whole = shapes._write_split
    monkeypatch.setattr(shapes, '_write_split', stop)
    with pytest.raises(KeyboardInterrupt):
        shapes.write_shapes(tmp_path, 64)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(shapes, '_write_split', whole)
    root = shapes.write_shapes(tmp_path, 64)
    content = json.loads((root / 'annotations' / 'instances_val.json').read_text())
    assert len(content['images']) == 2
    assert not list(tmp_path.glob('.*'))


def parameters_without_gradient(runner):
    """What stops DistributedDataParallel at its second iteration."""
    model = runner.model.train()
    data = model.data_preprocessor(next(iter(runner.train_dataloader)), True)
    loss, _ = model.parse_losses(model(**data, mode='loss'))
    loss.backward()
    return [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]


# Of each family one size, and of most one task: tests/configs shows that sizes differ in nothing
# but the backbone and its widths, and tests/backbones runs both pyramids backward.
SWEPT = re.compile(
    r'maskrcnn_(mambaout_t|localvmamba_t|vim_t|swin_t)|cascade_maskrcnn_(mambaout|vim)_t|retinanet_.*'
    r'|deeplab.*|upernet_(mambaout_femto|vmamba_t|efficientvmamba_b|plainmamba_l1)'
)
SWEPT = [path for path in CONFIGS if SWEPT.fullmatch(path.stem)]
LONGER = [path for path in CONFIGS if path.stem.endswith('_3x')]


@pytest.mark.parametrize('path', LONGER, ids=lambda p: p.stem)
def test_the_demo_of_a_longer_schedule_is_that_of_the_short_one(path, workspace):
    """Hence it is not run again below."""
    demos = []
    for config in (path, path.with_name(f'{path.stem.removesuffix("_3x")}.py')):
        cfg = Config.fromfile(config)
        apply_demo(cfg, workspace / 'work_dirs' / 'demo_data')
        # What a file names for its own use, as the pipeline it puts into a loader, stays behind
        demos.append({k: v for k, v in cfg.items() if k in inspect.signature(Runner).parameters})
    assert len(demos[0]) > 15 and demos[0] == demos[1]


@pytest.mark.slow
@pytest.mark.parametrize('path', SWEPT, ids=lambda p: p.stem)
def test_configs_train_and_evaluate(path, workspace, run_tool, monkeypatch):
    runners = []

    def report_and_keep(runner, *rest):
        runners.append(runner)
        report(runner, *rest)

    monkeypatch.setattr('mambaout_mm.training.run.report', report_and_keep)
    options = [*two_iterations(path), 'default_hooks.checkpoint.save_last=False']
    code, out, err = run_tool('train.py', path, '--demo', '--cfg-options', *options)
    assert code == 0, err
    run = workspace / 'work_dirs' / f'{path.stem}_demo'
    log = (run / 'output.log').read_text()
    assert 'Iter(train) [2/2]' in log
    assert 'iteration 2 of 2: loss ' in out
    # What a person has to read, and nothing of the libraries
    assert len(out.splitlines()) < 25 and err == ''
    picture = cv2.imread(str(run / 'predictions.png'))
    assert picture.shape == (SIZE, 4 * SIZE, 3)
    detection = 'detection' in path.parts
    assert ('COCO AP' if detection else 'mIoU') in out
    assert f'python tools/prepare_data.py {"coco" if detection else "ade20k"}' in out
    assert parameters_without_gradient(runners[0]) == []
    losses = [float(loss) for loss in re.findall(r'Iter\(train\).* loss: ([\d.naif]+)', log)]
    assert len(losses) == 2 and all(np.isfinite(losses))


def test_a_data_set_that_cannot_be_written_is_told(tmp_path, small_disk):
    with pytest.raises(UserError, match=r"embedded data set cannot be drawn to '.*shapes1_192'"):
        shapes.write_shapes(tmp_path, 192)
    assert not list(tmp_path.iterdir())
    (tmp_path / 'file').touch()
    with pytest.raises(UserError, match='cannot be drawn to'):
        shapes.write_shapes(tmp_path / 'file', 192)
