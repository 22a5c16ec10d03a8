"""The rows that every part of a comparison yields: one number each, or the reason for its lack."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import pandas as pd

NAN = math.nan


class Record(NamedTuple):
    """One number of a comparison, where it comes from, and what to keep in mind.

    Attributes:
        section (str): 'cost', 'sequence', 'receptive field', 'growth', 'published' or 'runs'.
        backbone (str): As in ``MambaOut-T``; a run's name in 'runs'.
        mixer (str): 'Conv', 'Attn', 'Conv+Attn', 'Conv+SSM' or 'Pool', as in MambaOut's tables;
            empty where it is not known.
        model (str): 'backbone', or what is around it: 'Mask R-CNN', 'UperNet', 'ImageNet-1K'.
        quantity (str): What the number is: 'params', 'MACs', 'time', 'box AP' and so on.
        setting (str): Under which conditions: a stage, 'forward, fp32', a schedule. Empty if none.
        size (str): Of the image, as in '800x1280'; empty where there is none.
        value (float): The number; NaN where there is none, and then ``note`` says why.
        unit (str): Of the number: 'M', 'G', 'ms', 'MB', 'px', '%'.
        low, high (float): Spread of the number, such as deciles; NaN where it has none.
        origin (str): 'computed' from the model, 'measured' on this machine, 'published', or 'run'
            for the user's own training.
        published (float): For a computed number, what its authors print; NaN where they do not.
        difference (float): How many percent the number is above the published one.
        source (str): Where a published number, ``value`` or ``published``, is printed.
        note (str): A caveat, or why ``value`` is missing.
    """

    section: str
    backbone: str
    quantity: str
    value: float
    unit: str
    origin: str
    mixer: str = ''
    model: str = 'backbone'
    setting: str = ''
    size: str = ''
    low: float = NAN
    high: float = NAN
    published: float = NAN
    difference: float = NAN
    source: str = ''
    note: str = ''


COLUMNS = (
    'section',
    'backbone',
    'mixer',
    'model',
    'quantity',
    'setting',
    'size',
    'value',
    'unit',
    'low',
    'high',
    'origin',
    'published',
    'difference',
    'source',
    'note',
)


def to_frame(records: Iterable[Record]) -> pd.DataFrame:
    """Records as a frame with the columns ``COLUMNS``, one row each."""
    frame = pd.DataFrame(list(records), columns=Record._fields)[list(COLUMNS)]
    return frame.astype(dict.fromkeys(('value', 'low', 'high', 'published', 'difference'), float))
