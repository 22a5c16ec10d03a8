"""Images of curves of which one is marked at its end: which pixels are of the marked curve?

All curves of an image are equally long and look alike, so that what says whether a pixel is of the
marked curve lies at the mark, along the curve. That distance is the parameter. The task is
Pathfinder's (Linsley et al., arXiv 1805.08315; Long Range Arena, arXiv 2011.04006), asked for each
pixel.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mambaout_mm.errors import UserError

BACKGROUND, OTHER, MARKED = range(3)
CLASSES = 3
IGNORED = 255  # the mark itself

# In pixels
DASH, GAP, THICKNESS = 6, 3, 3
SPACING = 10  # at least, between the middles of two curves
MARGIN = 4
MARK_RADIUS = 3
BEND = 0.05  # standard deviation of the change of a curve's direction after each pixel, in radians
CANDIDATES = 32  # curves tried at once
TRIES = 1000  # of an image

WHITE, RED = (255, 255, 255), (255, 0, 0)


class NoRoom(UserError):
    """The curves do not fit into an image."""


class Arrangement(NamedTuple):
    """The curves of an image.

    Attributes:
        curves (list[np.ndarray]): Points (length, 2) of each, x and y; the first is marked at its
            first point.
        phases (list[int]): Where in a dash each begins.
    """

    curves: list[np.ndarray]
    phases: list[int]


def arrange(rng: np.random.Generator, size: int, distance: float, distractors: int) -> Arrangement:
    """Curves that lie apart, anywhere in an image.

    Args:
        rng (np.random.Generator): Decides everything that is not given.
        size (int): Height and width.
        distance (float): Length of each curve, as a fraction of ``size``.
        distractors (int): Curves beside the marked one.

    Raises:
        NoRoom: If no arrangement was found.
    """
    count = distractors + 1
    for _ in range(TRIES):
        curves = _try_to_arrange(rng, size, round(distance * size), count)
        if curves:
            return Arrangement(curves, rng.integers(DASH + GAP, size=count).tolist())
    raise NoRoom(
        f'{count} curves of {distance:g} of {size} pixels do not fit into an image; take a larger '
        'image, fewer distractors or a shorter distance'
    )


def draw(arrangement: Arrangement, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The image of some curves, and the class of each pixel.

    Returns:
        tuple[np.ndarray, np.ndarray]: The image, (size, size, 3) of uint8, RGB; and the label,
        (size, size) of uint8: ``BACKGROUND``, ``OTHER``, ``MARKED``, or ``IGNORED`` at the mark.
    """
    image = np.zeros((size, size, 3), np.uint8)
    label = np.full((size, size), BACKGROUND, np.uint8)
    for i, (points, phase) in enumerate(zip(*arrangement, strict=True)):
        for start in range(-phase, len(points), DASH + GAP):
            dash = points[max(start, 0) : max(start + DASH, 0)]
            if len(dash) > 1:
                line = [np.rint(dash).astype(np.int32)]
                cv2.polylines(image, line, False, WHITE, THICKNESS)
                cv2.polylines(label, line, False, MARKED if i == 0 else OTHER, THICKNESS)
    x, y = np.rint(arrangement.curves[0][0]).astype(int).tolist()
    cv2.circle(image, (x, y), MARK_RADIUS, RED, cv2.FILLED)
    cv2.circle(label, (x, y), MARK_RADIUS, IGNORED, cv2.FILLED)
    return image, label


def _try_to_arrange(
    rng: np.random.Generator, size: int, length: int, count: int
) -> list[np.ndarray] | None:
    """Points (length, 2) of so many curves that keep their distance, or None."""
    taken = np.zeros((size, size), np.uint8)
    curves: list[np.ndarray] = []
    for _ in range(count):
        for points in _candidates(rng, size, length):
            x, y = np.rint(points).astype(int).T
            if not taken[y, x].any():
                break
        else:
            return None
        curves.append(points.astype(np.float32))
        cv2.polylines(taken, [np.rint(points).astype(np.int32)], False, 1, 2 * SPACING)
    return curves


def _candidates(rng: np.random.Generator, size: int, length: int) -> np.ndarray:
    """Curves anywhere in the image, a point each pixel: (those that fit, length, 2)."""
    turns = rng.normal(0, BEND, (CANDIDATES, length))
    turns[:, 0] = rng.uniform(0, 2 * np.pi, CANDIDATES)
    headings = turns.cumsum(1)
    points = np.stack((np.cos(headings), np.sin(headings)), axis=-1).cumsum(1)
    points -= points.min(1, keepdims=True)
    room = size - 1 - 2 * MARGIN - points.max(1)  # (CANDIDATES, 2)
    points += MARGIN + rng.uniform(size=room.shape)[:, None] * room[:, None]
    return points[(room >= 0).all(1)]


class Curves(Dataset):
    """So many images; an image depends on its number and the seed alone.

    Where curves lie takes longer to find than to draw, and is kept once it was found.

    An item has ``inputs``, the image (3, size, size) from -1 to 1; ``labels``, (size, size); and
    ``distances``, the number of its distance. Distances take turns.

    Args:
        size (int): Height and width.
        distances (Sequence[float]): Lengths of curves, as fractions of ``size``.
        count (int): How many images.
        seed (int): Data of different seeds have nothing in common.
        distractors (int): Curves beside the marked one.
    """

    def __init__(
        self, size: int, distances: Sequence[float], count: int, seed: int, distractors: int
    ) -> None:
        self.size = size
        self.distances = tuple(distances)
        self.count = count
        self.seed = seed
        self.distractors = distractors
        self._found: dict[int, Arrangement] = {}

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> dict[str, Any]:
        number = i % len(self.distances)
        if i not in self._found:
            rng = np.random.default_rng((self.seed, i))
            distance = self.distances[number]
            self._found[i] = arrange(rng, self.size, distance, self.distractors)
        image, label = draw(self._found[i], self.size)
        return dict(inputs=to_input(image), labels=torch.from_numpy(label).long(), distances=number)


def to_input(image: np.ndarray) -> Tensor:
    """(H, W, 3) of uint8 as (3, H, W) from -1 to 1."""
    return torch.from_numpy(image).permute(2, 0, 1).float() / 127.5 - 1
