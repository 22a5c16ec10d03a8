"""The gallery of a report: effective receptive fields as small images inside of the page."""

import base64
import io
import math
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from PIL import Image

from ..erf import ErfMap

# What is fainter than this share of the strongest pixel is as dark as nothing.
FAINTEST = 1e-4
LEVELS = 32  # as many as an eye tells apart here; each doubling costs a fifth of the file
SIDE = 96


def gallery(maps: Sequence[ErfMap]) -> list[dict[str, Any]]:
    """A row for each backbone, size and weights; an image for each stage.

    Returns:
        list[dict]: ``backbone``, ``size``, ``weights`` and ``images``: (stage, address, text for
        those who do not see it).
    """
    lines: dict[tuple[str, str, str], dict[str, Any]] = {}
    for one in maps:
        key = (one.backbone, one.size, one.weights)
        line = lines.setdefault(
            key, dict(backbone=one.backbone, size=one.size, weights=one.weights, images=[])
        )
        text = (
            f'Effective receptive field of {one.backbone}, stage {one.stage}, {one.size} pixels, '
            f'weights: {one.weights}'
        )
        line['images'].append((one.stage, erf_image(one.values), text))
    return list(lines.values())


def erf_image(values: np.ndarray) -> str:
    """A PNG, as a data address, of contributions on a logarithmic colour scale.

    Args:
        values (np.ndarray): (H, W), of which the largest is white.

    Returns:
        str: At most 96 pixels a side.
    """
    values = np.nan_to_num(np.asarray(values, np.float32))
    height, width = values.shape
    shrink = max(1.0, max(height, width) / SIDE)
    small = Image.fromarray(values).resize(
        (max(1, round(width / shrink)), max(1, round(height / shrink))), Image.Resampling.BOX
    )
    return _png(np.asarray(small) / max(float(np.max(small)), 1e-30))


def erf_scale() -> str:
    """The colours from the faintest to the strongest, as a data address."""
    return _png(np.logspace(math.log10(FAINTEST), 0, 128)[None].repeat(8, axis=0))


def _png(shares: np.ndarray) -> str:
    levels = 1 + np.log10(np.clip(shares, FAINTEST, 1)) / -math.log10(FAINTEST)
    image = Image.fromarray(np.round(levels * (LEVELS - 1)).astype(np.uint8), mode='P')
    # Cividis looks the same with any colour vision.
    colours = matplotlib.colormaps['cividis'](np.linspace(0, 1, LEVELS))[:, :3]
    image.putpalette(np.round(colours * 255).astype(np.uint8).tobytes())
    buffer = io.BytesIO()
    image.save(buffer, 'PNG', optimize=True)
    return 'data:image/png;base64,' + base64.b64encode(buffer.getvalue()).decode()
