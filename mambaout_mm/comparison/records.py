"""The rows that every section of a comparison gives: one number each, or why there is none."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields

import pandas as pd

NAN = math.nan


@dataclass(frozen=True, kw_only=True)
class Record:
    """One number of a comparison, where it comes from, and what to keep in mind.

    The order of the fields is that of the columns in ``table.csv``.

    Attributes:
        section (str): The name of its section: 'cost', 'sequence', 'receptive field', 'growth',
            'published' or 'runs'.
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
    mixer: str = ''
    model: str = 'backbone'
    quantity: str
    setting: str = ''
    size: str = ''
    value: float
    unit: str
    low: float = NAN
    high: float = NAN
    origin: str
    published: float = NAN
    difference: float = NAN
    source: str = ''
    note: str = ''


COLUMNS = tuple(field.name for field in fields(Record))
NUMBERS = tuple(field.name for field in fields(Record) if field.type is float)


def to_frame(records: Iterable[Record]) -> pd.DataFrame:
    """Records as a frame with the columns ``COLUMNS``, one row each."""
    frame = pd.DataFrame([vars(record) for record in records], columns=list(COLUMNS))
    return frame.astype(dict.fromkeys(NUMBERS, float))


def size_text(size: tuple[int, int]) -> str:
    """Height and width of an image as in the column ``size``: '800x1280'."""
    return f'{size[0]}x{size[1]}'


def size_of(text: str) -> tuple[int, int]:
    """Height and width of an image from the column ``size``."""
    height, width = text.split('x')
    return int(height), int(width)
