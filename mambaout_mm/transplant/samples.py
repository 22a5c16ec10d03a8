"""Made-up pictures with the annotations that a config's training asks for."""

from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.structures import InstanceData, PixelData

from mambaout_mm.config_tree import dicts_in

# Corners of the objects (x1, y1, x2, y2) as shares of width and height: of several sizes, some of
# them one over the other.
OBJECTS = ((0.05, 0.1, 0.55, 0.6), (0.4, 0.3, 0.95, 0.9), (0.1, 0.65, 0.35, 0.95))


def batch(cfg: Config, size: tuple[int, int], count: int = 2) -> dict[str, Any]:
    """Pictures and annotations as a data loader of the config gives them to the model.

    Args:
        cfg (Config): The whole config; ``default_scope`` says which library, the training
            pipeline which annotations.
        size (tuple[int, int]): Height and width of the pictures.
        count (int): How many. Defaults to 2: batch norms behind a global pooling need two.

    Returns:
        dict[str, Any]: 'inputs', uint8 (3, H, W) each, and 'data_samples'.
    """
    segmentation = cfg.get('default_scope') == 'mmseg'
    sample = _semantic_sample if segmentation else _instance_sample
    generator = torch.Generator().manual_seed(0)
    data = dict(
        inputs=[
            torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)
            for _ in range(count)
        ],
        data_samples=[sample(cfg, size) for _ in range(count)],
    )
    branches = _branches(cfg)
    if branches:  # semi-supervised: each branch gets its own pictures
        return {key: {branch: list(value) for branch in branches} for key, value in data.items()}
    return data


def fewest_classes(model: dict) -> int:
    """The least number of classes that any head of a model has; labels below it fit them all."""
    keys = ('num_classes', 'num_things_classes')
    numbers = [node[key] for _, node in dicts_in(model) for key in keys if key in node]
    return min((n for n in numbers if isinstance(n, int) and n > 0), default=1)


def _steps(cfg: Config) -> list[dict]:
    """Every dict of the training's data loader: among them the steps of its pipelines."""
    return [node for _, node in dicts_in(cfg.get('train_dataloader') or {})]


def _branches(cfg: Config) -> list[str]:
    preprocessor = cfg.model.get('data_preprocessor') or {}
    if 'MultiBranch' not in str(preprocessor.get('type')):
        return []
    found = [node['branch_field'] for node in _steps(cfg) if 'branch_field' in node]
    return list(dict.fromkeys(name for names in found for name in names))


def _kind(node: dict) -> str:
    return str(node.get('type')).split('.')[-1]


def _meta(size: tuple[int, int]) -> dict[str, Any]:
    height, width = size
    return dict(
        img_id=0,
        img_path='made_up.png',
        ori_shape=size,
        img_shape=size,
        pad_shape=size,
        scale_factor=(1.0, 1.0),
        flip=False,
        flip_direction=None,
        border=np.array([0, height, 0, width], dtype=np.float32),  # CenterNet's
        homography_matrix=np.eye(3, dtype=np.float32),  # of semi-supervised training
    )


def _boxes(size: tuple[int, int]) -> torch.Tensor:
    height, width = size
    return torch.tensor(OBJECTS) * torch.tensor([width, height, width, height])


def _instance_sample(cfg: Config, size: tuple[int, int]) -> Any:
    from mmdet.structures import DetDataSample
    from mmdet.structures.bbox import HorizontalBoxes
    from mmdet.structures.mask import BitmapMasks

    steps = _steps(cfg)
    panoptic = any(_kind(node) == 'LoadPanopticAnnotations' for node in steps)
    masked = panoptic or any(node.get('with_mask') for node in steps)
    semantic = panoptic or any(node.get('with_seg') for node in steps)
    boxes, classes = _boxes(size), fewest_classes(cfg.model)
    labels = torch.arange(len(boxes)) % min(classes, 2)
    maps = np.zeros((len(boxes), *size), dtype=np.uint8)
    for one, (x1, y1, x2, y2) in zip(maps, boxes.round().int().tolist(), strict=True):
        one[y1:y2, x1:x2] = 1

    sample = DetDataSample(metainfo=_meta(size))
    for name, part in (('gt_instances', slice(None)), ('ignored_instances', slice(0))):
        instances = InstanceData(bboxes=HorizontalBoxes(boxes[part]), labels=labels[part])
        if masked:
            instances.masks = BitmapMasks(maps[part], *size)
        setattr(sample, name, instances)
    if semantic:
        things = next((n['num_things_classes'] for n in _parts(cfg, 'num_things_classes')), 0)
        image = np.full(size, things, dtype=np.int64)  # a kind of stuff behind the objects
        image[: size[0] // 3] = things + 1
        if panoptic:
            for one, label in zip(maps, labels.tolist(), strict=True):
                image[one > 0] = label
        sample.gt_sem_seg = PixelData(sem_seg=torch.from_numpy(image)[None])
    if any(_kind(node) == 'LoadProposals' for node in steps):
        sample.proposals = InstanceData(bboxes=boxes, scores=torch.linspace(1, 0.5, len(boxes)))
    return sample


def _parts(cfg: Config, key: str) -> list[dict]:
    return [node for _, node in dicts_in(cfg.model) if key in node]


def _semantic_sample(cfg: Config, size: tuple[int, int]) -> Any:
    from mmseg.structures import SegDataSample

    image = torch.zeros(size, dtype=torch.long)
    last = min(fewest_classes(cfg.model), 3) - 1
    for label, (x1, y1, x2, y2) in enumerate(_boxes(size).round().int().tolist()):
        image[y1:y2, x1:x2] = min(label, last)
    image[:2] = 255  # no class
    meta = _meta(size)
    del meta['border'], meta['homography_matrix']
    return SegDataSample(metainfo=meta, gt_sem_seg=PixelData(data=image[None]))
