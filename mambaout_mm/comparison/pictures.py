"""What the pictures of several sections share: panels, marks of backbones, legends, files."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mambaout_mm.files import whole_file

from .figures import style

# Shapes of the page's markers.
MARKERS = {
    'circle': 'o',
    'square': 's',
    'diamond': 'D',
    'triangle-up': '^',
    'cross': 'P',
    'x': 'x',
    'star': '*',
}
# The colours of Okabe and Ito, which people of any colour vision tell apart.
COLOURS = (
    '#000000', '#E69F00', '#56B4E9', '#009E73', '#0072B2', '#D55E00', '#CC79A7', '#F0E442',
)  # fmt: skip
DASHES = ('-', '--', ':', '-.', (0, (8, 2)))
MANY = 5  # curves above which a legend would cover some of them


def panels(
    rows: int, columns: int, width: float, height: float, **options: Any
) -> tuple[Figure, np.ndarray]:
    """A picture of panels.

    Args:
        rows, columns (int): How many panels there are.
        width, height (float): Of each panel, in inches.
        **options: Of ``Figure.subplots``.

    Returns:
        tuple[Figure, np.ndarray]: The picture, and its axes (rows, columns).
    """
    # Without pyplot, which would choose a way to show pictures for the whole process
    figure = Figure(figsize=(columns * width, rows * height), layout='constrained')
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def save_picture(figure: Figure, path: Path) -> None:
    """Write a picture as a png file.

    Raises:
        UserError: If it cannot be written.
    """
    with whole_file(path) as unfinished:
        figure.savefig(unfinished, dpi=110, format='png')


def look_of(backbone: str, mixer: str) -> dict[str, str]:
    """Colour and shape of a backbone's marks, as on the page."""
    colour, shape = style(backbone, mixer)
    return dict(color=colour, marker=MARKERS[shape])


def looks_of(rows: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Look of each backbone in some rows; those of one colour differ in their lines and fill."""
    looks: dict[str, dict[str, Any]] = {}
    for backbone, mixer in rows[['backbone', 'mixer']].drop_duplicates().itertuples(index=False):
        look = look_of(backbone, mixer)
        before = sum(other['color'] == look['color'] for other in looks.values())
        looks[backbone] = look | dict(
            linestyle=DASHES[before % len(DASHES)],
            markerfacecolor='white' if before % 2 else look['color'],
        )
    return looks


def add_legend(axis: Axes, entries: int) -> None:
    """Put the legend where the fewest points are, or beside the axes if it would cover some."""
    outside = dict(loc='upper left', bbox_to_anchor=(1, 1)) if entries > MANY else {}
    axis.legend(fontsize='small', **outside)
