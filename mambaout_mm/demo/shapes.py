"""The embedded data set: bright circles, squares and triangles on grey textured ground.

Drawn from a seed, so that nothing is downloaded and every machine gets the same shapes. One folder
serves detection (COCO instances) and segmentation (ADE-style label maps):

    images/{train,val}/0000.png
    annotations/instances_{train,val}.json
    labels/{train,val}/0000.png         0 background, 1 circle, 2 square, 3 triangle
"""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np

from mambaout_mm.errors import UserError
from mambaout_mm.files import write_text

CLASSES = ('circle', 'square', 'triangle')
PALETTE = [(220, 20, 60), (0, 130, 220), (250, 170, 30)]
SEG_CLASSES = ('background', *CLASSES)
SEG_PALETTE = [(40, 40, 40), *PALETTE]

SPLITS = {'train': 400, 'val': 40}
# Part of the folder's name: raise it with any change to the drawings.
VERSION = 1
MAX_OBJECTS = 5
# A shape that would leave less of an older one is not drawn.
MIN_VISIBLE = 0.6


def write_shapes(folder: Path, size: int) -> Path:
    """Draw the data set, unless it is there already.

    Args:
        folder (Path): Where data sets of this kind lie; one of its own name is made inside.
        size (int): Side of the square images in pixels.

    Returns:
        Path: The data set's folder. It appears only when it is complete.

    Raises:
        UserError: If it cannot be written.
    """
    root = folder / f'shapes{VERSION}_{size}'
    if root.exists():
        return root
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Several processes may come here at once; each draws its own, and the first one's stays.
        with TemporaryDirectory(dir=folder, prefix='.unfinished-') as unfinished:
            drawn = Path(unfinished) / root.name
            for split, count in SPLITS.items():
                _write_split(drawn, split, count, size)
            try:
                drawn.rename(root)
            except OSError:
                if not root.exists():
                    raise
    except OSError as error:
        raise UserError(
            f'the embedded data set cannot be drawn to {str(root)!r}: {error.strerror or error}; '
            'make room there, or run the command in another folder'
        ) from error
    return root


def _write_split(root: Path, split: str, count: int, size: int) -> None:
    images, annotations = [], []
    for kind in ('images', 'labels'):
        (root / kind / split).mkdir(parents=True)
    (root / 'annotations').mkdir(exist_ok=True)
    for i in range(count):
        # One seed for each image: the first images are the same however many are drawn.
        rng = np.random.default_rng([list(SPLITS).index(split), i])
        image, masks, labels = draw(rng, size)
        name = f'{i:04d}.png'
        _write_png(root / 'images' / split / name, image)
        label_map = np.zeros((size, size), np.uint8)
        for mask, label in zip(masks, labels, strict=True):
            label_map[mask] = label + 1
            annotations.append(_annotation(len(annotations) + 1, i, mask, label))
        _write_png(root / 'labels' / split / name, label_map)
        images.append(dict(id=i, file_name=name, height=size, width=size))
    categories = [dict(id=k + 1, name=name) for k, name in enumerate(CLASSES)]
    content = dict(images=images, annotations=annotations, categories=categories)
    write_text(root / 'annotations' / f'instances_{split}.json', json.dumps(content))


def _write_png(path: Path, image: np.ndarray) -> None:
    # Not by cv2.imwrite, which says nothing of a full disk.
    path.write_bytes(cv2.imencode('.png', image)[1].tobytes())


def draw(rng: np.random.Generator, size: int) -> tuple[np.ndarray, list[np.ndarray], list[int]]:
    """One image with its instances.

    Args:
        rng (np.random.Generator): Source of all choices.
        size (int): Side of the square image in pixels.

    Returns:
        tuple: The image, (size, size, 3) uint8 BGR; one boolean mask (size, size) for each
        instance, hidden parts taken out; their class indices.
    """
    coarse = rng.integers(40, 130, (4, 4, 1)) + rng.integers(-15, 16, (4, 4, 3))
    ground = cv2.resize(coarse.astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    image = np.clip(ground + rng.normal(0, 12, ground.shape), 0, 255).astype(np.uint8)
    masks: list[np.ndarray] = []
    areas: list[int] = []
    labels: list[int] = []
    for _ in range(rng.integers(2, MAX_OBJECTS + 1)):
        label = int(rng.integers(len(CLASSES)))
        mask = _shape(rng, label, size)
        hue = np.uint8([[[rng.integers(180), rng.integers(130, 256), rng.integers(150, 256)]]])
        color = cv2.cvtColor(hue, cv2.COLOR_HSV2BGR)[0, 0]
        left = [older & ~mask for older in masks]
        if any(o.sum() < MIN_VISIBLE * area for o, area in zip(left, areas, strict=True)):
            continue
        image[mask] = np.clip(color + rng.normal(0, 8, (int(mask.sum()), 3)), 0, 255)
        masks = [*left, mask]
        areas.append(int(mask.sum()))
        labels.append(label)
    return image, masks, labels


def _shape(rng: np.random.Generator, label: int, size: int) -> np.ndarray:
    radius = rng.uniform(0.1, 0.22) * size
    center = rng.uniform(radius, size - radius, 2)
    mask = np.zeros((size, size), np.uint8)
    if CLASSES[label] == 'circle':
        cv2.circle(mask, center.astype(int).tolist(), int(radius), 1, -1)
    else:
        corners = 4 if CLASSES[label] == 'square' else 3
        upright = np.pi / 4 if corners == 4 else -np.pi / 2
        angles = upright + rng.uniform(-0.2, 0.2) + 2 * np.pi * np.arange(corners) / corners
        points = center + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        cv2.fillPoly(mask, [points.round().astype(np.int32)], 1)
    return mask.astype(bool)


def _annotation(id_: int, image_id: int, mask: np.ndarray, label: int) -> dict:
    from pycocotools import mask as coco_mask  # comes with mmdet; mmseg alone does without

    # Run lengths rather than polygons: exact where one shape cuts another to pieces.
    segmentation = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    segmentation['counts'] = segmentation['counts'].decode()
    ys, xs = np.nonzero(mask)
    x, y = int(xs.min()), int(ys.min())
    return dict(
        id=id_,
        image_id=image_id,
        category_id=label + 1,
        bbox=[x, y, int(xs.max()) - x + 1, int(ys.max()) - y + 1],
        area=int(mask.sum()),
        segmentation=segmentation,
        iscrowd=0,
    )
