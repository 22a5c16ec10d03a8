"""What training needs beside the model."""

from .checkpoint_files import KeepingCheckpointHook
from .compiled_backbone import CompileBackboneHook
from .layer_decay import LayerDecayOptimWrapperConstructor
from .loops import ResumableEpochLoop
from .seeding import SeedAugmentation, SeededSampler

__all__ = [
    'CompileBackboneHook',
    'KeepingCheckpointHook',
    'LayerDecayOptimWrapperConstructor',
    'ResumableEpochLoop',
    'SeedAugmentation',
    'SeededSampler',
]
