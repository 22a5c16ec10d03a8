"""What the speed benchmark can time: models, passes, sizes, dtypes, and forms of each."""

from typing import NamedTuple

import torch

# 'ours' is how this project runs by default.
FORMS = (
    'ours',
    'ours channels_last',
    'timm',
    'timm channels_last',
    'timm onednn',
    'ours compiled',
    'timm compiled',
    'ours graph',
    'timm graph',
)
PASSES = ('inference', 'forward+backward', 'step')
DTYPES = {'fp32': torch.float32, 'bf16': torch.bfloat16}


class Case(NamedTuple):
    """A measurement, which is taken in several forms.

    Attributes:
        model (str): 'backbone', 'maskrcnn' or 'upernet'.
        what (str): 'inference'; 'forward+backward'; or 'step', which adds AdamW's step.
        height, width, batch (int): Of the images.
        dtype (str): 'fp32', or 'bf16' for autocast.
    """

    model: str
    what: str
    height: int
    width: int
    batch: int
    dtype: str
