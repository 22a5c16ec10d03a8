"""Detectors and segmentors over MambaOut with random weights, and batches for their training."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from mmengine.config import Config
from torch import nn

from mambaout_mm.config_files import find_config
from mambaout_mm.measure.complexity import build_model
from mambaout_mm.measure.synthetic import detection_samples, segmentation_samples


class WholeModel(NamedTuple):
    """A detector or segmentor.

    Attributes:
        task (str): 'detection' or 'segmentation', which is its folder of configs.
        samples (Callable): Makes a batch from a number of images, height and width, and a
            generator.
    """

    task: str
    samples: Callable[[int, tuple[int, int], torch.Generator], dict]


WHOLE_MODELS = {
    'maskrcnn': WholeModel('detection', detection_samples),
    'upernet': WholeModel('segmentation', segmentation_samples),
}


def find_model_config(model: str, arch: str) -> Path:
    """The config of a model over a variant of MambaOut.

    Args:
        model (str): A key of ``WHOLE_MODELS``.
        arch (str): A variant, as in the names of configs: 't'.

    Raises:
        UserError: If there is no such config.
    """
    return find_config(f'{WHOLE_MODELS[model].task}/{model}_mambaout_{arch}.py')


def build_random(cfg: Config, size: tuple[int, int]) -> nn.Module:
    """The config's model with random weights.

    Args:
        cfg (Config): Changed in place: no pretrained weights, and images of ``size``.
        size (tuple[int, int]): Height and width of the images.
    """
    cfg.model.backbone.init_cfg = None
    if 'size' in cfg.model.data_preprocessor:  # mmseg's pads images to it
        cfg.model.data_preprocessor.size = size
    model = build_model(cfg)
    model.init_weights()
    return model
