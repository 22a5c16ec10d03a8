"""Names in published EfficientVMamba files.

They are VMamba's, but for the prefix of an average of weights (EMA) around DistributedDataParallel,
which the official code cuts off while it loads (``vmamba_efficient.py`` of
TerryPei/EfficientVMamba at 0bc5ee2), and the last two stages.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from . import vmamba


def to_official(state_dict: Mapping[str, Tensor], num_stages: int) -> dict[str, Tensor]:
    """Today's official names, output norms as ``norm{i}``, without the classifier.

    Args:
        state_dict (Mapping[str, Tensor]): From a published file.
        num_stages (int): Stages of the model. What leads to the next one is left out.

    Raises:
        UnknownLayoutError: If it is not an EfficientVMamba.
    """
    # `module.module.` in the file, of which loading may have cut off one
    bare = {re.sub(r'^(module\.)+', '', name): tensor for name, tensor in state_dict.items()}
    return vmamba.to_official(bare, 'EfficientVMamba', num_stages)


def measure(state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    """What :func:`mambaout_mm.checkpoints.vmamba.measure` returns, of all four stages."""
    found = vmamba.measure(state_dict)  # of the stages with a scan
    for i in (2, 3):
        last = re.compile(rf'layers\.{i}\.\d+\.conv_pw2\.0\.weight')  # (dim, 4 * dim, 1, 1)
        dims = [tensor.shape[0] for name, tensor in state_dict.items() if last.fullmatch(name)]
        if dims:
            found['depths'] += (len(dims),)
            found['dims'] += (dims[0],)
    return found
