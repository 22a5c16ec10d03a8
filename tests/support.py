"""Shared by the tests: where the project is, and the shortest run."""

from pathlib import Path

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
