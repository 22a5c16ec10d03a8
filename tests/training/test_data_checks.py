"""Damaged data are named before a training starts; so they are in the loader."""

import json
import pickle
from pathlib import Path
from runpy import run_path

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DATASETS, init_default_scope
from PIL import Image
from support import ROOT
from torch.utils.data import DataLoader

from mambaout_mm.data.images import LabelRules
from mambaout_mm.errors import UserError
from mambaout_mm.training import checks, data_checks
from mambaout_mm.training.data_checks import check_contents, explain_reading, find_problems
from mambaout_mm.training.loading import NamingPipeline, NamingRunner, without_traceback

HEIGHT, WIDTH = 24, 32
CLASSES = ('sky', 'road', 'car')
COUNT = 6
LOAD = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]


def write_image(path, height=HEIGHT, width=WIDTH):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    assert cv2.imwrite(str(path), noise)


def write_labels(path, values=(0, 1, 2, 255), height=HEIGHT, width=WIDTH, dtype=np.uint8):
    path.parent.mkdir(parents=True, exist_ok=True)
    labels = np.resize(np.array(values, dtype), (height, width))
    assert cv2.imwrite(str(path), labels)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.fixture
def segmentation(tmp_path):
    for i in range(COUNT):
        write_image(tmp_path / 'images' / f'{i}.jpg')
        write_labels(tmp_path / 'labels' / f'{i}.png')
    dataset = dict(
        type='BaseSegDataset',
        data_root=str(tmp_path),
        data_prefix=dict(img_path='images', seg_map_path='labels'),
        metainfo=dict(classes=CLASSES),
        pipeline=LOAD,
    )
    return Config(dict(default_scope='mmseg', train_dataloader=dict(dataset=dataset)))


@pytest.fixture
def detection(tmp_path):
    annotations = []
    for i in range(COUNT):
        write_image(tmp_path / 'images' / f'{i}.jpg')
        polygon = [[1, 2, 11, 2, 11, 10, 1, 10]]
        annotations.append(
            dict(
                id=i,
                image_id=i,
                category_id=1,
                bbox=[1, 2, 10, 8],
                area=80,
                iscrowd=0,
                segmentation=polygon,
            )
        )
    images = [dict(id=i, file_name=f'{i}.jpg', height=HEIGHT, width=WIDTH) for i in range(COUNT)]
    content = dict(images=images, annotations=annotations, categories=[dict(id=1, name='fig')])
    (tmp_path / 'instances.json').write_text(json.dumps(content))
    load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True)]
    load[1]['with_mask'] = True
    dataset = dict(
        type='CocoDataset',
        data_root=str(tmp_path),
        ann_file='instances.json',
        data_prefix=dict(img='images/'),
        metainfo=dict(classes=('fig',)),
        pipeline=load,
    )
    return Config(dict(default_scope='mmdet', train_dataloader=dict(dataset=dataset)))


def problems_of(cfg, **kwargs):
    return find_problems(cfg, ('train',), **kwargs).problems


def edit(folder, change):
    path = folder / 'instances.json'
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def first_label(values, **kwargs):
    return lambda folder: write_labels(folder / 'labels' / '0.png', values, **kwargs)


def rgb_label(folder):
    write_image(folder / 'labels' / '0.png')


def remove(name):
    return lambda folder: (folder / name).unlink()


def empty(name):
    return lambda folder: (folder / name).write_bytes(b'')


SEGMENTATION_DAMAGE = {
    'above the classes': (first_label((0, 1, 11)), 'labels/0.png has the label 11, but the labels'),
    'just above': (first_label((0, 3)), 'or set reduce_zero_label=True in the data set if 0 means'),
    '16 bits': (
        first_label((0, 300), dtype=np.uint16),
        'labels/0.png has the label 300, and label',
    ),
    'colours': (rgb_label, 'labels/0.png has 3 channels (a picture in colours?)'),
    'another size': (
        first_label((0, 1), width=16),
        'labels/0.png is 16x24 pixels, its image 32x24',
    ),
    'no label map': (remove('labels/0.png'), 'labels/0.png is not there, but wanted beside the'),
    'a cut label map': (lambda f: truncate(f / 'labels/0.png'), 'labels/0.png cannot be read as a'),
    'an empty label map': (empty('labels/0.png'), 'labels/0.png is empty (0 bytes)'),
    'a cut image': (lambda f: truncate(f / 'images/0.jpg'), 'images/0.jpg cannot be read whole'),
    'an empty image': (empty('images/0.jpg'), 'images/0.jpg is empty (0 bytes)'),
    'no image at all': (
        lambda f: (f / 'images/0.jpg').write_text('<html>'),
        'images/0.jpg is not an image, or is broken',
    ),
}


@pytest.mark.parametrize('damage', SEGMENTATION_DAMAGE)
def test_damaged_segmentation_data(segmentation, tmp_path, damage):
    assert problems_of(segmentation) == []
    harm, words = SEGMENTATION_DAMAGE[damage]
    harm(tmp_path)
    found = problems_of(segmentation)
    assert len(found) == 1 and words in found[0]
    with pytest.raises(UserError) as caught:
        check_contents(segmentation, ('train',))
    assert words in str(caught.value)
    assert 'prepare_data.py --check CONFIG' in str(caught.value)


@pytest.mark.parametrize('damage', [d for d in SEGMENTATION_DAMAGE if d != '16 bits'])
def test_damaged_segmentation_data_that_slip_through_are_named_by_the_loader(
    segmentation, tmp_path, damage
):
    harm, words = SEGMENTATION_DAMAGE[damage]
    dataset, named = pipeline(segmentation)
    harm(tmp_path)
    if damage == 'no label map':
        words = 'labels/0.png cannot be read: No such file'
    with pytest.raises(UserError) as caught:
        named(dataset.get_data_info(0))
    assert words in str(caught.value)


def test_from_a_worker_process_comes_one_sentence(segmentation, tmp_path):
    init_default_scope('mmseg')
    loader = dict(
        dataset=segmentation.train_dataloader.dataset,
        batch_size=1,
        num_workers=1,
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='pseudo_collate'),
    )
    built = NamingRunner.build_dataloader(loader)
    empty('labels/0.png')(tmp_path)
    with pytest.raises(UserError) as caught:
        next(iter(built))
    assert 'Traceback' in str(caught.value)
    path = tmp_path / 'labels' / '0.png'
    sentence = f'{path} is empty (0 bytes); copy or download it again'
    assert str(without_traceback(caught.value)) == sentence


def test_zero_for_no_label(segmentation, tmp_path):
    dataset = segmentation.train_dataloader.dataset
    for i in range(COUNT):
        write_labels(tmp_path / 'labels' / f'{i}.png', (0, 1, 2, 3, 255))
    assert len(problems_of(segmentation)) == COUNT
    dataset.reduce_zero_label = True
    assert problems_of(segmentation) == []
    first_label((0, 4))(tmp_path)
    assert (
        'has the label 4, but the labels of the 3 classes are 1 to 3 (0 and 255 are'
        in (problems_of(segmentation)[0])
    )


@pytest.mark.parametrize('reduce_zero_label', [False, True])
@pytest.mark.parametrize('label_map', [None, {0: 0, 1: 255, 2: 1}])
def test_labels_are_judged_as_mmseg_changes_them(tmp_path, reduce_zero_label, label_map):
    """What the file's check refuses is what the loss would get, for each of the 256 labels."""
    init_default_scope('mmseg')
    rules = LabelRules(2, 255, reduce_zero_label, label_map or {})
    load = Compose([dict(type='mmseg.LoadAnnotations')])
    for label in range(256):
        write_labels(tmp_path / 'a.png', (label,), 2, 2)
        data = dict(
            seg_map_path=str(tmp_path / 'a.png'),
            reduce_zero_label=reduce_zero_label,
            label_map=label_map,
            seg_fields=[],
        )
        loaded = load(data)['gt_seg_map']
        fine = loaded.max() < 2 or loaded.max() == 255
        for check in (
            lambda label=label: rules.check_file(np.full((2, 2), label, np.uint8), Path('a.png')),
            lambda loaded=loaded: rules.check_loaded(loaded, 'a.png'),
        ):
            if fine:
                check()
            else:
                with pytest.raises(UserError, match=f'a.png has the label {label}, but'):
                    check()


def test_palettes_and_single_bits_are_label_maps(segmentation, tmp_path):
    picture = Image.fromarray(np.ones((HEIGHT, WIDTH), np.uint8), 'P')
    picture.putpalette([0, 0, 0, 255, 0, 0])
    picture.save(tmp_path / 'labels' / '0.png')
    Image.fromarray(np.ones((HEIGHT, WIDTH), bool)).save(tmp_path / 'labels' / '1.png')
    assert problems_of(segmentation) == []


def test_images_that_exif_turns(segmentation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.fromarray(np.zeros((WIDTH, HEIGHT, 3), np.uint8))
    picture.save(tmp_path / 'images' / '0.jpg', exif=exif)
    assert cv2.imread(str(tmp_path / 'images' / '0.jpg')).shape[:2] == (HEIGHT, WIDTH)
    assert problems_of(segmentation) == []


def test_label_maps_of_ignored_pixels_only_are_worth_a_warning(segmentation, tmp_path):
    first_label((255,))(tmp_path)
    found = find_problems(segmentation, ('train',))
    assert not found.problems
    assert len(found.warnings) == 1
    assert '1 of the 6 label maps looked at in' in found.warnings[0]
    check_contents(segmentation, ('train',))


def test_a_suffix_that_no_image_has(segmentation):
    segmentation.train_dataloader.dataset.img_suffix = '.tif'
    assert "no image whose name ends in '.tif'" in problems_of(segmentation)[0]


def test_names_in_a_list(segmentation, tmp_path):
    (tmp_path / 'train.txt').write_text('0\n1\n')
    remove('labels/5.png')(tmp_path)
    segmentation.train_dataloader.dataset.ann_file = 'train.txt'
    assert problems_of(segmentation) == []
    remove('labels/1.png')(tmp_path)
    assert 'labels/1.png is not there' in problems_of(segmentation)[0]


def test_inside_of_wrappers_and_in_validation(segmentation, tmp_path):
    inner = segmentation.train_dataloader.dataset
    segmentation.val_dataloader = dict(
        dataset=dict(type='ConcatDataset', datasets=[dict(type='RepeatDataset', dataset=inner)])
    )
    first_label((7,))(tmp_path)
    assert 'has the label 7' in find_problems(segmentation, ('val',)).problems[0]


def test_a_sample_is_spread_evenly_and_is_the_same_each_time(segmentation, monkeypatch):
    read = []
    original = data_checks.image_size
    monkeypatch.setattr(
        data_checks, 'image_size', lambda path: read.append(path.name) or original(path)
    )
    for _ in range(2):
        read.clear()
        problems_of(segmentation, sample=3)
        assert read == ['0.jpg', '2.jpg', '4.jpg']


DETECTION_DAMAGE = {
    'a missing image': (remove('images/0.jpg'), 'images/0.jpg is not there, but named in'),
    'an empty image': (empty('images/0.jpg'), 'images/0.jpg is empty (0 bytes)'),
    'a cut image': (lambda f: truncate(f / 'images/0.jpg'), 'images/0.jpg cannot be read whole'),
    'another size': (
        lambda f: write_image(f / 'images/0.jpg', 20, 40),
        'images/0.jpg is 40x20 pixels, but',
    ),
    'no area': (
        lambda f: edit(f, lambda content: content['annotations'][0].pop('area')),
        "instances.json, annotation 0: no 'area'",
    ),
    'no mask': (
        lambda f: edit(f, lambda content: content['annotations'][0].update(segmentation=[])),
        "instances.json, annotation 0: no 'segmentation' or an empty one",
    ),
}


@pytest.mark.parametrize('damage', DETECTION_DAMAGE)
def test_damaged_detection_data(detection, tmp_path, damage):
    assert problems_of(detection) == []
    harm, words = DETECTION_DAMAGE[damage]
    harm(tmp_path)
    found = problems_of(detection)
    assert len(found) == 1 and words in found[0]


def test_indices_of_images_that_are_not_there(detection):
    detection.train_dataloader.dataset.indices = [0, COUNT]
    with pytest.raises(UserError, match=f'ask for image {COUNT}, but it has {COUNT}, from 0'):
        problems_of(detection)


def test_images_that_are_not_used_may_be_missing(detection, tmp_path):
    edit(tmp_path, lambda content: content['annotations'].pop(0))
    remove('images/0.jpg')(tmp_path)
    assert len(problems_of(detection)) == 1
    dataset = detection.train_dataloader.dataset
    dataset.filter_cfg = dict(filter_empty_gt=True)
    assert problems_of(detection) == []
    dataset.filter_cfg = None
    dataset.indices = -2
    assert problems_of(detection) == []
    dataset.indices = [0]
    assert len(problems_of(detection)) == 1


def test_the_evaluations_file_is_read_too(detection, tmp_path):
    path = str(tmp_path / 'instances.json')
    edit(tmp_path, lambda content: content['annotations'][2].pop('iscrowd'))
    assert problems_of(detection) == []
    detection.train_evaluator = dict(type='CocoMetric', ann_file=path, metric='bbox')
    assert "annotation 2: no 'iscrowd'" in problems_of(detection)[0]


def test_large_annotation_files_are_left_to_mmdet_and_its_error_is_explained(
    detection, tmp_path, monkeypatch
):
    DETECTION_DAMAGE['no area'][0](tmp_path)
    monkeypatch.setattr(checks, 'LARGE_ANNOTATIONS', 10)
    check_contents(detection, ('train',))
    with pytest.raises(KeyError) as caught:
        DATASETS.build(detection.train_dataloader.dataset)
    with pytest.raises(UserError, match=r"instances.json, annotation 0: no 'area'"):
        explain_reading(detection, ('train',), caught.value)
    explain_reading(detection, ('train',), KeyError('area'))  # from elsewhere


@pytest.mark.parametrize(
    'remote',
    [
        dict(data_root='s3://bucket'),
        dict(ann_file='s3://bucket/a.json'),
        dict(data_prefix=dict(img='s3://bucket/images')),
        dict(backend_args=dict(backend='petrel')),
    ],
)
def test_remote_data_are_passed_over(detection, tmp_path, remote):
    remove('images/0.jpg')(tmp_path)
    detection.train_dataloader.dataset.update(remote)
    assert problems_of(detection) == []


def test_data_sets_of_other_kinds_are_passed_over(detection):
    detection.train_dataloader.dataset.update(type='LVISV1Dataset')
    assert problems_of(detection) == []


def pipeline(cfg):
    init_default_scope(cfg.default_scope)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    return dataset, NamingPipeline(dataset.pipeline, LabelRules.of(dataset))


def test_the_loader_names_the_image_of_a_detection_sample(detection, tmp_path):
    """An annotation without a mask, which a large file's check has not seen."""
    DETECTION_DAMAGE['no mask'][0](tmp_path)
    dataset, named = pipeline(detection)
    with pytest.raises(UserError) as caught:
        named(dataset.get_data_info(0))
    sentence = str(caught.value)
    assert (
        f'LoadAnnotations of the pipeline cannot take the image {tmp_path}/images/0.jpg' in sentence
    )
    assert "KeyError: 'mask'" in sentence


def test_the_samples_stay_the_same(segmentation):
    dataset, named = pipeline(segmentation)
    for index in range(COUNT):
        plain = dataset.pipeline(dataset.get_data_info(index))
        other = pickle.loads(pickle.dumps(named))(dataset.get_data_info(index))
        assert plain.keys() == other.keys()
        assert np.array_equal(plain['img'], other['img'])
        assert np.array_equal(plain['gt_seg_map'], other['gt_seg_map'])


def test_a_lack_of_memory_is_not_the_images_fault(segmentation):
    def transform(results):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    named = NamingPipeline(Compose([transform]))
    with pytest.raises(RuntimeError, match='allocate memory'):
        named(dict(img_path='a.jpg'))


def test_pipelines_are_named_once_inside_of_wrappers(segmentation):
    init_default_scope('mmseg')
    inner = segmentation.train_dataloader.dataset
    loader = dict(
        dataset=dict(type='RepeatDataset', times=2, dataset=inner),
        batch_size=1,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=False),
    )
    built = NamingRunner.build_dataloader(loader)
    assert isinstance(built, DataLoader)
    assert type(built.dataset.dataset.pipeline) is NamingPipeline
    again = NamingRunner.build_dataloader(built)
    assert type(again.dataset.dataset.pipeline.transforms[0]) is not NamingPipeline


def test_other_errors_of_users_stay_as_they_are():
    error = UserError('Caught in the act')
    assert without_traceback(error) is error


def run_tool(arguments):
    with pytest.raises(SystemExit) as caught:
        run_path(str(ROOT / 'tools' / 'prepare_data.py'))['main'](arguments)
    return caught.value.code


def test_check_of_a_config(segmentation, tmp_path, capsys):
    segmentation.model = dict(type='EncoderDecoder', decode_head=dict(num_classes=3))
    path = tmp_path / 'my_config.py'
    segmentation.dump(path)
    assert run_tool(['--check', str(path)]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f'{path}: nothing wrong in') and '6 of 6 images' in last


def test_check_of_a_config_with_many_problems(segmentation, tmp_path, capsys, monkeypatch):
    segmentation.model = dict(type='EncoderDecoder', decode_head=dict(num_classes=3))
    path = tmp_path / 'my_config.py'
    segmentation.dump(path)
    for i in range(COUNT):
        write_labels(tmp_path / 'labels' / f'{i}.png', (9,))
    monkeypatch.setattr(data_checks, 'SHOWN', 4)
    assert run_tool(['--check', str(path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith('error: ') and 'has the label 9' in line for line in lines) == 4
    assert 'and 2 more' in lines
    assert lines[-1].startswith(f'{path}: 6 problems in')


@pytest.mark.parametrize('arguments', [['cocoo'], ['configs/my_config.py'], ['--check', 'cocoo']])
def test_what_is_neither_a_data_set_nor_a_config_to_check(arguments, capsys):
    assert run_tool(arguments) == 2
    assert 'a config (.py) goes with --check' in capsys.readouterr().err
