"""Fixtures of all tests."""

import json
import resource
import runpy
import sys
from collections import Counter

import cv2
import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from mmengine.visualization import Visualizer
from support import ROOT

import mambaout_mm  # noqa: F401  registers the backbones, offers mmcv's operators
from mambaout_mm.demo.settings import SIZE
from mambaout_mm.demo.shapes import write_shapes


def pytest_collection_modifyitems(items):
    """Files with most slow tests first, so that no worker is left alone with one at the end."""
    slow = Counter(item.path for item in items if item.get_closest_marker('slow'))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope='session')
def configs_are_logged_as_they_are():
    """MMEngine lays out each config that it logs or writes, which takes seconds for each run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('yapf.yapflib.yapf_api.FormatCode', lambda text, **style: (text, True))
        yield


@pytest.fixture(scope='session')
def demo_data(tmp_path_factory):
    """The embedded data set, drawn once for the whole run."""
    folder = tmp_path_factory.mktemp('demo_data')
    write_shapes(folder, SIZE)
    return folder


@pytest.fixture(scope='session')
def published_data(tmp_path_factory):
    """A folder with data/coco and data/ade: three images of 200x150 in each split."""
    folder = tmp_path_factory.mktemp('published')
    from mmdet.datasets import CocoDataset  # not before mambaout_mm offers mmcv's operators

    rng = np.random.default_rng(0)
    names = CocoDataset.METAINFO['classes']
    coco = folder / 'data' / 'coco'
    ade = folder / 'data' / 'ade' / 'ADEChallengeData2016'
    (coco / 'annotations').mkdir(parents=True)
    for split, ade_split in (('train', 'training'), ('val', 'validation')):
        for path in (coco / f'{split}2017', ade / f'images/{ade_split}'):
            path.mkdir(parents=True)
        (ade / f'annotations/{ade_split}').mkdir(parents=True)
        content = dict(
            images=[],
            annotations=[],
            categories=[dict(id=3 * k + 1, name=name) for k, name in enumerate(names)],  # with gaps
        )
        for i in range(3):
            image = rng.integers(0, 256, (150, 200, 3), dtype=np.uint8)
            cv2.imwrite(str(coco / f'{split}2017' / f'{i}.jpg'), image)
            content['images'].append(dict(id=i, file_name=f'{i}.jpg', width=200, height=150))
            for k in range(2):
                x, y, w, h = 20 + 60 * k, 30, 50, 80
                content['annotations'].append(
                    dict(
                        id=2 * i + k,
                        image_id=i,
                        category_id=3 * (i + k) + 1,
                        bbox=[x, y, w, h],
                        area=w * h,
                        iscrowd=0,
                        segmentation=[[x, y, x + w, y, x + w, y + h, x, y + h]],
                    )
                )
            cv2.imwrite(str(ade / f'images/{ade_split}/{i}.jpg'), image)
            labels = rng.integers(0, 151, (15, 20)).repeat(10, 0).repeat(10, 1)
            cv2.imwrite(str(ade / f'annotations/{ade_split}/{i}.png'), labels.astype(np.uint8))
        (coco / f'annotations/instances_{split}2017.json').write_text(json.dumps(content))
    return folder


@pytest.fixture
def workspace(tmp_path, monkeypatch, demo_data):
    """An empty current directory in which the demo finds its data set drawn."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'work_dirs').mkdir()
    (tmp_path / 'work_dirs' / 'demo_data').symlink_to(demo_data)
    return tmp_path


@pytest.fixture
def run_tool(monkeypatch, capfd):
    """Run a tool as a command line would; gives (exit code, stdout, stderr)."""

    def run(name, *args):
        # Global instances of the last run would write to its folders and captured streams.
        for cls in (MMLogger, *Visualizer.__subclasses__()):
            cls._instance_dict.clear()
        monkeypatch.setattr(sys, 'argv', [name, *map(str, args)])
        code = 0
        try:
            runpy.run_path(str(ROOT / 'tools' / name), run_name='__main__')
        except SystemExit as exit_:
            code = exit_.code
            if isinstance(code, str):  # what the interpreter does with a message
                print(code, file=sys.stderr)
                code = 1
        out, err = capfd.readouterr()
        return code or 0, out, err

    yield run
    DefaultScope._instance_dict.clear()  # registries would go on to look where the tool did


@pytest.fixture
def small_disk():
    """Files end at 10 kB, as on a disk that is full then."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
