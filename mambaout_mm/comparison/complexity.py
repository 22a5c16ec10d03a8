"""Parameters and multiply-accumulates of a whole model, the way the paper's tables count them."""

from functools import partial
from typing import NamedTuple

import torch
from mmengine.analysis import FlopAnalyzer
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from torch import nn


class Complexity(NamedTuple):
    """Cost of a model.

    Attributes:
        params (int): Number of parameters.
        macs (int): Multiply-accumulates of one forward pass of one image: convolutions and matrix
            products count one for each multiply-add, LayerNorm five for each element
            (``mmengine.analysis``); activations, pooling and RoIAlign nothing.
    """

    params: int
    macs: int


def build_model(cfg: Config) -> nn.Module:
    """The model of a config with random weights, SyncBN reverted, in eval mode."""
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    return revert_sync_batchnorm(MODELS.build(cfg.model)).eval()


def model_complexity(cfg: Config, size: tuple[int, int]) -> Complexity:
    """Count parameters and MACs of a config's detector or segmentor.

    Detectors run with the number of proposals of their ``test_cfg`` through every head.

    Args:
        cfg (Config): With ``model`` and ``default_scope`` of mmdet or mmseg.
        size (tuple[int, int]): Height and width of the image.

    Returns:
        Complexity: Parameters and MACs.
    """
    model = build_model(cfg)
    if cfg.default_scope == 'mmdet':
        from mmdet.structures import DetDataSample

        sample = DetDataSample(
            metainfo=dict(
                img_shape=size, ori_shape=size, pad_shape=size, batch_input_shape=size, img_id=0
            )
        )
        model.forward = partial(model.forward, data_samples=[sample])
    image = torch.zeros(1, 3, *size)
    analyzer = FlopAnalyzer(model, image)
    analyzer.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    with torch.no_grad():
        macs = int(analyzer.total())
    return Complexity(sum(p.numel() for p in model.parameters()), macs)
