"""What mmdet or COCO's evaluation would stumble over in an annotation file is said before."""

import copy
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mambaout_mm.data.coco_file import _pixels, check_annotations

HEIGHT, WIDTH = 20, 30
PATH = Path('instances.json')


def run_lengths(height=HEIGHT, width=WIDTH):
    encoded = coco_mask.encode(np.asfortranarray(np.eye(height, width, dtype=np.uint8)))
    return dict(size=[height, width], counts=encoded['counts'].decode())


def polygon_annotation(id_, **changes):
    return dict(
        id=id_,
        image_id=7,
        category_id=3,
        bbox=[1, 2, 10, 8],
        area=80,
        iscrowd=0,
        segmentation=[[1, 2, 11, 2, 11, 10, 1, 10]],
    ) | dict(changes)


def content(*annotations):
    return dict(
        images=[
            dict(id=7, file_name='a.jpg', height=HEIGHT, width=WIDTH),
            dict(id=8, file_name='b.jpg', height=HEIGHT, width=WIDTH),  # without annotations
        ],
        annotations=list(annotations) or [polygon_annotation(i) for i in range(1, 13)],
        categories=[dict(id=3, name='fig')],
    )


def test_what_mmdet_reads_is_not_refused():
    fine = content(
        polygon_annotation(1),
        polygon_annotation(2, iscrowd=1, segmentation=run_lengths()),
        polygon_annotation(3, segmentation=run_lengths()),  # the embedded data set, for one
        polygon_annotation(4, segmentation=dict(size=[HEIGHT, WIDTH], counts=[100, 500])),
        polygon_annotation(5, bbox=[-2.5, 0, 10, 8]),
        *(polygon_annotation(i) for i in range(6, 12)),
        polygon_annotation(13, area=0, segmentation=[]),  # left out, one of many
    )
    assert check_annotations(PATH, fine, masks=True, evaluated=False) == ([], [])
    del fine['annotations'][-1]
    assert check_annotations(PATH, fine, masks=True, evaluated=True) == ([], [])


def test_a_list_of_test_images_is_fine():
    images = content()
    del images['annotations']
    assert check_annotations(PATH, images, masks=True, evaluated=False) == ([], [])


def test_a_training_alone_asks_for_less_than_an_evaluation():
    bare = content()
    for annotation in bare['annotations']:
        del annotation['iscrowd']
        annotation['segmentation'] = []
    assert check_annotations(PATH, bare, masks=False, evaluated=False) == ([], [])
    problems, _ = check_annotations(PATH, bare, masks=False, evaluated=True)
    assert problems == [
        "instances.json, annotations 1, 2, 3 and 9 more: no 'iscrowd', which COCO's evaluation "
        'needs; write 0 (1 for a crowd)'
    ]


def test_annotations_to_ignore_are_not_looked_at_in_a_training():
    ignored = content(polygon_annotation(1, ignore=1, bbox=None, segmentation=None))
    assert check_annotations(PATH, ignored, masks=True, evaluated=False) == ([], [])


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        (dict(area=None), "annotation 5: no 'area', which mmdet needs; write the mask's"),
        (dict(area='12'), "annotation 5: 'area' has to be a number and is '12'"),
        (dict(bbox=None), "annotation 5: no 'bbox', which mmdet needs"),
        (dict(bbox=[10**400, 2, 3, 4]), "annotation 5: 'bbox' has to be four numbers"),
        (dict(bbox=[1, 2, 3]), "annotation 5: 'bbox' has to be four numbers"),
        (dict(bbox=[1, 2, 3, '4']), "[x, y, width, height], and is [1, 2, 3, '4']"),
        (dict(bbox=[1, 2, 3, float('nan')]), "'bbox' has to be four numbers"),
        (dict(bbox=dict(x=1)), "'bbox' has to be four numbers"),
        (dict(image_id=9), 'annotation 5 (image_id 9): no image of the file'),
        (dict(image_id='7'), "annotation 5 (image_id '7'): no image of the file"),
        (dict(category_id=4), 'annotation 5 (category_id 4): no category of the file'),
        (dict(image_id=None), "annotation 5: no 'image_id'"),
        (dict(image_id=[7]), "annotation 5: no 'image_id'"),
        (dict(category_id=None), "annotation 5: no 'category_id'"),
        (dict(id=4), 'annotation 4: this id is there more than once'),
        (dict(id=None), "annotation number 4 of the list: no 'id'"),
        (dict(segmentation=None), "annotation 5: no 'segmentation' or an empty one"),
        (dict(segmentation=[]), "annotation 5: no 'segmentation' or an empty one"),
        (dict(segmentation=[1, 2, 11, 2, 11, 10]), 'has to be a list of polygons'),
        (dict(segmentation=[['1', 2, 11, 2, 11, 10]]), 'has to be a list of polygons'),
        (dict(segmentation='mask.png'), 'has to be a list of polygons'),
        (dict(segmentation=dict(counts='abc')), "the size in 'segmentation', None, is not its"),
        (dict(segmentation=run_lengths(WIDTH, HEIGHT)), '[30, 20], is not its image'),
        (dict(segmentation=dict(size=[HEIGHT, WIDTH], counts='xyz!!')), 'do not fill the image'),
        (dict(segmentation=dict(size=[HEIGHT, WIDTH], counts=[1, 2])), 'do not fill the image'),
        (dict(segmentation=dict(size=[HEIGHT, WIDTH])), 'do not fill the image'),
    ],
)
def test_a_broken_annotation_is_named(changes, words):
    broken = content()
    broken['annotations'][4].update(changes)
    problems, warnings = check_annotations(PATH, broken, masks=True, evaluated=False)
    assert len(problems) == 1 and problems[0].startswith('instances.json, annotation ')
    assert words in problems[0]
    assert not warnings


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        (dict(height=None), "image 8: no 'height', which mmdet needs"),
        (dict(width='30'), "image 8: 'height' and 'width' have to be numbers above 0"),
        (dict(width=0), "image 8: 'height' and 'width' have to be numbers above 0"),
        (dict(file_name=None), "image 8: no 'file_name'"),
        (dict(id=7), 'image 7: this id is there more than once'),
        (dict(id=None), "image number 1 of the list: no 'id'"),
    ],
)
def test_a_broken_image_entry_is_named(changes, words):
    broken = content()
    broken['images'][1].update(changes)
    problems, _ = check_annotations(PATH, broken, masks=True, evaluated=False)
    assert len(problems) == 1 and words in problems[0]


@pytest.mark.parametrize(
    ('broken', 'words'),
    [
        ([], 'it holds no object at all'),
        (dict(images=[], categories=[], annotations={}), "it has no list 'annotations'"),
        (dict(annotations=[], categories=[]), "it has no list 'images'"),
    ],
)
def test_another_kind_of_file(broken, words):
    assert words in check_annotations(PATH, broken, masks=True, evaluated=False)[0][0]


def test_what_the_evaluation_cannot_read_of_masks():
    """pycocotools takes the kind of a segmentation from its first polygon."""
    short = content()
    short['annotations'][2]['segmentation'].insert(0, [1, 1, 4, 4])
    assert check_annotations(PATH, short, masks=True, evaluated=False) == ([], [])
    problems, _ = check_annotations(PATH, short, masks=True, evaluated=True)
    assert len(problems) == 1 and 'annotation 3: the first polygon' in problems[0]


@pytest.mark.parametrize(
    'changes',
    [
        dict(area=0),
        dict(bbox=[40, 2, 10, 8]),
        dict(bbox=[1, 2, 0.5, 8]),
        dict(bbox=[1, 2, -3, 8]),
        dict(segmentation=[[1, 2, 11, 2]]),
        dict(segmentation=[[1, 2, 11, 2, 11, 10, 1]]),
    ],
)
def test_annotations_that_mmdet_leaves_out_are_counted(changes):
    few, many = content(), content()
    for place in (2, 6):
        many['annotations'][place].update(copy.deepcopy(changes))
    few['annotations'][2].update(changes)
    assert check_annotations(PATH, few, masks=True, evaluated=False) == ([], [])
    problems, warnings = check_annotations(PATH, many, masks=True, evaluated=False)
    assert not problems
    assert len(warnings) == 1
    assert 'mmdet leaves out 2 of the 12 annotations (ids 3, 7)' in warnings[0]


def test_run_lengths_are_counted_as_pycocotools_writes_them():
    rng = np.random.default_rng(0)
    for _ in range(50):
        height, width = rng.integers(1, 90, 2)
        mask = rng.random((height, width)) < rng.random()
        counts = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))['counts'].decode()
        assert _pixels(counts) == mask.size
        assert _pixels(counts[:-1]) != mask.size
