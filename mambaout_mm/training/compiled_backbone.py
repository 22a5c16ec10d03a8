"""Compiles the backbone of a training, and leaves the heads as they are."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from .checks import bare_model


@HOOKS.register_module()
class CompileBackboneHook(Hook):
    """``torch.compile`` for the backbone, whose shapes change with the image alone.

    MMEngine's own ``compile`` takes the whole step, heads and optimizer, which PyTorch 2.14 cannot
    trace. Names of parameters, and so checkpoints, stay as they are. It needs PyTorch 2.4 or newer.

    Args:
        options: Of ``torch.compile``, such as ``backend`` and ``dynamic``.
    """

    def __init__(self, **options: Any) -> None:
        self.options = options

    def before_train(self, runner: Runner) -> None:
        """Compile at the first iteration."""
        bare_model(runner.model).backbone.compile(**self.options)
