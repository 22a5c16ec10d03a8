"""Parameters and multiply-accumulates, by one rule for every backbone.

The rule is the one behind VMamba's tables, and what ``mmengine.analysis`` counts with the handles
of :mod:`mambaout_mm.compat.flop_counter`: multiply-accumulates of convolutions and matrix products,
LayerNorm 5 for each element, BatchNorm, resizing and pooling some for each, and by those handles
the scan and fused attention. The scan's are floating-point operations added to
multiply-accumulates, as published; the comparison has the count by pairs beside it. Gates,
activations and RoIAlign count nothing. MambaOut's tables leave out BatchNorm, resizing and pooling,
0.8e9 of UperNet.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from mmdet.models import BaseDetector
from mmdet.structures import DetDataSample
from mmengine.analysis import FlopAnalyzer
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from mambaout_mm.compat.flop_counter import OP_HANDLES, SCAN, scan_flops
from mambaout_mm.ops.modes import counting


class Complexity(NamedTuple):
    """Cost of a model.

    Attributes:
        params (int): Number of parameters.
        macs (int): Multiply-accumulates of one forward pass of one image, by this module's rule.
    """

    params: int
    macs: int


def build_model(cfg: Config) -> nn.Module:
    """The model of a config with random weights, SyncBN reverted, in eval mode."""
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmengine')):
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
    model = prepare_for_counting(build_model(cfg), size)
    macs = count_macs(model, torch.zeros(1, 3, *size))
    return Complexity(sum(p.numel() for p in model.parameters()), macs)


def prepare_for_counting(model: nn.Module, size: tuple[int, int]) -> nn.Module:
    """Give a detector's forward pass the description of an image that it asks for, in place."""
    if isinstance(model, BaseDetector):
        sample = DetDataSample(
            metainfo=dict(
                img_shape=size, ori_shape=size, pad_shape=size, batch_input_shape=size, img_id=0
            )
        )
        model.forward = partial(model.forward, data_samples=[sample])
    return model


def count_macs(model: nn.Module, image: Tensor) -> int:
    """Multiply-accumulates of ``model(image)``, by this module's rule.

    Args:
        model (nn.Module): In eval mode.
        image (Tensor): What it takes, for example (1, 3, H, W).

    Returns:
        int: The count.
    """
    return sum(count_by_operator(model, image).values())


def count_by_operator(
    model: nn.Module, image: Tensor, scan: Callable[[list, list], int] = scan_flops
) -> dict[str, int]:
    """What :func:`count_macs` adds up: the count of 'conv', 'linear', 'layer_norm' and so on.

    Args:
        model (nn.Module): In eval mode.
        image (Tensor): What it takes, for example (1, 3, H, W).
        scan (Callable): The rule for selective scans, a handle for ``FlopAnalyzer``. Defaults to
            the published one.
    """
    analyzer = FlopAnalyzer(model, image).set_op_handle(**OP_HANDLES | {SCAN: scan})
    analyzer.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    with torch.no_grad(), counting():
        return {name: int(count) for name, count in analyzer.by_operator().items()}
