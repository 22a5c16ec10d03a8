"""Shared by the tests: where the project is, and the shortest run."""

from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(
    p for task in ('detection', 'segmentation') for p in ROOT.glob(f'configs/{task}/*.py')
)

# Two iterations of two images, two images to evaluate, no checkpoint on disk.
TWO_ITERATIONS = [
    'train_cfg.max_iters=2',
    'train_cfg.val_interval=2',
    'train_dataloader.batch_size=2',
    'val_dataloader.dataset.indices=2',
    'default_hooks.logger.interval=1',
]

# Heads that take less time than what is tested: few channels, few boxes whose masks are drawn.
SMALL_HEADS = {
    'maskrcnn': [
        'model.train_cfg.rpn_proposal.max_per_img=64',
        'model.test_cfg.rpn.max_per_img=64',
        'model.test_cfg.rcnn.max_per_img=4',
    ],
    'upernet': ['model.decode_head.channels=16', 'model.auxiliary_head.channels=16'],
}


def two_iterations(config):
    """Options for the shortest run of a config, its heads as small as they can be."""
    return [*TWO_ITERATIONS, *SMALL_HEADS.get(Path(config).stem.split('_')[0], [])]


def needs_torch(version, reason):
    """A mark for tests of what older versions of PyTorch cannot do; ``reason`` says what."""
    return pytest.mark.skipif(
        torch.__version__ < version, reason=f'needs PyTorch {version}: {reason}'
    )
