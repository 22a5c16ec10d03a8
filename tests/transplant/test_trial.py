"""What is changed of a model for a trial."""

import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import nn

from mambaout_mm.transplant.text import config_path
from mambaout_mm.transplant.trial import build_for_trial, size_for


@pytest.mark.parametrize(
    ('model', 'size'),
    [
        ({}, (64, 96)),
        (dict(num_queries=100), (64, 96)),
        (dict(head=dict(num_queries=300)), (128, 160)),
    ],
)
def test_pictures_have_pixels_for_queries(model, size):
    assert size_for(model) == size


def test_nothing_is_downloaded_or_synchronised():
    cfg = Config.fromfile(config_path('mmseg::fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py'))
    init_default_scope('mmseg')
    assert cfg.model.pretrained and cfg.model.data_preprocessor.size == (512, 1024)
    model = build_for_trial(cfg, (64, 96))  # weights would come from the network
    kinds = {type(module) for module in model.modules()}
    assert nn.BatchNorm2d in kinds and nn.SyncBatchNorm not in kinds
    assert model.data_preprocessor.size == (64, 96)
    assert cfg.model.pretrained and cfg.model.data_preprocessor.size == (512, 1024)
