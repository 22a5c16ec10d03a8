"""Receptive field: how far a backbone can see, and what it looks at.

The theoretical receptive fields are computed with the section 'sequence'; this file measures the
effective ones, whose maps become a gallery on the page and a picture.
"""

import base64
import hashlib
import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure as Picture
from PIL import Image

from mambaout_mm.files import noted, write_bytes
from mambaout_mm.measure.effective_field import (
    effective_fields,
    noise,
    open_layer_scales,
    side_holding,
)

from ..catalogue import Network, build_without_pyramid, maps_of, stages_of
from ..pictures import panels
from ..records import Record
from ..result import Comparison
from ..section import Section
from ..session import Session
from ..tables import Cell, Column, Notes, Row, SummaryColumn, Table, failed, pivot, plain

SIDE, IMAGES = 448, 2  # of the images that are measured
SHARES = (50, 95)
FAINTEST = 1e-4  # of the strongest pixel; what is fainter is as dark as nothing
LEVELS = 32  # as many as an eye tells apart here; each doubling costs a fifth of the file
IMAGE_SIDE = 96  # of the images in the gallery


class ReceptiveFieldSection(Section):
    """Effective receptive fields; their maps are kept beside the other results."""

    name = 'receptive field'
    flag = 'erf'
    heading = 'Receptive field'
    origin = 'measured'
    reserved = (0.3, 90)  # twice what it takes on two idle cores
    template = """
<p>How far a backbone can see by its layers (computed), and the side of the square around the middle
that holds so much of the gradient (measured). With random weights, and layer scales at 1, that is
what a network lets through before training; weights of your own show what it learnt to look at
(<code>--checkpoints</code>).</p>
{% for table in tables %}{{ table_of(table, 'Receptive field') }}{% endfor %}
{% if gallery %}
<h3>Effective receptive fields</h3>
<p>How much each pixel of the image contributes to the middle of a stage's map, on a logarithmic
scale from a ten-thousandth to the strongest.</p>
<div class="scale">weak <img src="{{ scale }}" alt="Colours from weak to strong"> strong</div>
<div class="scroll" tabindex="0" role="region" aria-label="Effective receptive fields">
<table class="gallery">
<tbody>
{% for line in gallery %}
<tr><th scope="row">{{ line.backbone }} <small>{{ line.size }}</small>
<small>weights: {{ line.weights }}</small></th>
{% for stage, image, text in line.images %}
{% if loop.first %}{% for _ in range(1, stage) %}<td></td>{% endfor %}{% endif %}
<td><img src="{{ image }}" alt="{{ text }}"><small>stage {{ stage }}</small></td>
{% endfor %}
</tr>
{% endfor %}
</tbody>
</table>
</div>
{% endif %}
"""

    def records(self, session: Session) -> list[Record]:
        maps = session.extras.setdefault(self.name, [])
        files = MapFiles(session)

        def measure(entry: Network) -> list[Record]:
            options = session.options
            weights = options.checkpoints.get(entry.name)
            measured = erf_maps(entry, SIDE, IMAGES, weights, options.device)
            maps[:] = [erf for erf in maps if erf.backbone != entry.name] + measured
            files.save(entry, measured)
            return list(erf_records(entry, measured))

        def take_up(entry: Network) -> bool:
            found = files.load(entry)
            maps.extend(found)
            return bool(found)

        return session.by_backbone(
            self.name,
            session.entries,
            measure,
            origin=self.origin,
            depends_on=files.made_of,
            can_take_up=take_up,
        )

    def tables(self, comparison: Comparison) -> list[Table]:
        """What each stage can see by its layers, and what it looks at."""

        def show(row: Row) -> Cell:
            return Cell('whole image', 'Infinity') if math.isinf(row['value']) else plain(row)

        def heading(row: Row) -> tuple[str, str]:
            at = f' at {row["size"]}' if row['size'] else ''
            return f'{row["quantity"]}{at}, {row["unit"] or "px"}', row['setting']

        rows = comparison.rows
        return pivot(rows, rows.of(self.name), 'receptive-field', heading, show)

    def summary_columns(self, comparison: Comparison, notes: Notes) -> list[SummaryColumn]:
        """Half of the gradient at each backbone's last stage; not all have four."""
        last: dict[str, Row] = {}
        for row in comparison.rows.of(self.name):
            if row['quantity'] == quantity_of(50) and not failed(row):
                before = last.get(row['backbone'], row)
                last[row['backbone']] = max(row, before, key=lambda row: row['setting'])
        if not last:
            return []
        some_row = next(iter(last.values()))

        def cell_of(backbone: str) -> Cell:
            return comparison.rows.cell(last.get(backbone, some_row), backbone, plain)

        small = f'{quantity_of(50)}, last stage, {some_row["size"]}'
        column = Column(self.origin, '', f'{self.name}, {some_row["unit"]}', small)
        return [SummaryColumn(column, cell_of)]

    def context(self, comparison: Comparison) -> dict[str, Any]:
        maps = comparison.extras.get(self.name, [])
        return dict(gallery=gallery(maps), scale=erf_scale())

    def pictures(self, comparison: Comparison) -> Iterator[tuple[str, Picture]]:
        maps = comparison.extras.get(self.name)
        if maps:
            yield self.flag, draw_erf(maps)


class ErfMap(NamedTuple):
    """What one stage's middle sees.

    Attributes:
        backbone (str): Name of the entry.
        stage (int): 1 for stride 4 to 4 for stride 32.
        size (str): Of the images, '512x512'.
        weights (str): 'random' or the checkpoint.
        values (np.ndarray): (H, W), the contribution of each pixel, at most 1.
    """

    backbone: str
    stage: int
    size: str
    weights: str
    values: np.ndarray


class MapFiles:
    """The maps of a session in its folder; without a folder there are none."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def made_of(self, entry: Network) -> dict[str, Any]:
        """What maps depend on beside backbone and code."""
        return dict(
            weights=self._weights(entry), side=SIDE, images=IMAGES, machine=self.session.machine
        )

    def save(self, entry: Network, maps: list[ErfMap]) -> None:
        """Write the maps of a backbone."""
        if self.session.options.out is None:
            return
        content = io.BytesIO()
        np.savez_compressed(
            content,
            stages=[erf.stage for erf in maps],
            weights=maps[0].weights,
            size=maps[0].size,
            **{f'stage{erf.stage}': erf.values.astype(np.float16) for erf in maps},
        )
        with noted(self.session.store.unwritten):
            write_bytes(self._path(entry), content.getvalue())

    def load(self, entry: Network) -> list[ErfMap]:
        """The maps of a backbone; none if they are not there, or not whole."""
        if self.session.options.out is None or not self._path(entry).exists():
            return []
        path = self._path(entry)
        try:
            return read_maps(path, entry.name)
        except Exception as error:  # of any kind: so many are raised for zip files that are damaged
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            self.session.store.remade.append(f'{path} cannot be read and is made anew: {reason}')
            return []

    def _path(self, entry: Network) -> Path:
        name = ''.join(c if c.isalnum() or c in '-.' else '_' for c in entry.name)
        made_of = [entry, self.session.code, self.made_of(entry)]
        digest = hashlib.sha256(repr(made_of).encode()).hexdigest()[:8]
        return self.session.options.out / 'erf' / f'{name}-{digest}.npz'

    def _weights(self, entry: Network) -> list[Any] | None:
        """What identifies the weights of a backbone; None for random ones."""
        checkpoint = self.session.options.checkpoints.get(entry.name)
        if checkpoint is None:
            return None
        file = Path(checkpoint)
        if not file.is_file():
            return [checkpoint]
        return [checkpoint, file.stat().st_mtime, file.stat().st_size]


def read_maps(path: Path, backbone: str) -> list[ErfMap]:
    """The maps of a file.

    Raises:
        Exception: Of many kinds, if the file is damaged.
    """
    with path.open('rb') as file, np.load(file, allow_pickle=False) as data:
        size, weights = str(data['size']), str(data['weights'])
        maps = [
            ErfMap(backbone, stage, size, weights, data[f'stage{stage}'].astype(np.float32))
            for stage in map(int, data['stages'])
        ]
    for erf in maps:
        if erf.values.shape != (SIDE, SIDE) or not np.isfinite(erf.values).all():
            raise ValueError(f'it has no map of stage {erf.stage}')
    return maps


def erf_maps(
    entry: Network, side: int, images: int = 4, checkpoint: str | None = None, device: str = 'cpu'
) -> list[ErfMap]:
    """Measure the effective receptive field of each stage.

    With random weights, layer scales are set to 1: at the 1e-6 that ConvNeXt starts from, no block
    would pass anything on.

    Args:
        entry (Network): The backbone.
        side (int): Height and width of the images.
        images (int): How many to average over. Defaults to 4.
        checkpoint (str, optional): Weights, as ``init_cfg``'s. Defaults to None, random ones.
        device (str): Defaults to 'cpu'.

    Returns:
        list[ErfMap]: One for each stage; for a plain network one, of its last map.
    """
    model = build_without_pyramid(entry, checkpoint)
    if not checkpoint:
        open_layer_scales(model)
    stages = stages_of(maps_of(model)[1])
    fields = effective_fields(model, noise(side, images), device)
    weights = checkpoint or 'random'
    return [
        ErfMap(entry.name, stage, f'{side}x{side}', weights, field)
        for stage, field in zip(stages, fields, strict=True)
    ]


def quantity_of(percent: float) -> str:
    """The quantity of the records for a share of the gradient."""
    return f'side holding {percent} % of the gradient'


def erf_records(entry: Network, maps: list[ErfMap]) -> Iterator[Record]:
    """Sides of the squares that hold half of the gradient, and nearly all of it."""
    for erf in maps:
        for percent in SHARES:
            yield Record(
                section='receptive field',
                backbone=entry.name,
                mixer=entry.mixer,
                quantity=quantity_of(percent),
                setting=f'stage {erf.stage}',
                size=erf.size,
                value=side_holding(erf.values, percent),
                unit='px',
                origin='measured',
                note=(
                    'random weights, layer scales at 1'
                    if erf.weights == 'random'
                    else f'weights: {erf.weights}'
                ),
            )


def gallery(maps: Sequence[ErfMap]) -> list[dict[str, Any]]:
    """A row for each backbone, size and weights; an image for each stage.

    Returns:
        list[dict]: ``backbone``, ``size``, ``weights`` and ``images``: (stage, address, text for
        those who do not see it).
    """
    lines: dict[tuple[str, str, str], dict[str, Any]] = {}
    for erf in maps:
        line = lines.setdefault(
            (erf.backbone, erf.size, erf.weights),
            dict(backbone=erf.backbone, size=erf.size, weights=erf.weights, images=[]),
        )
        text = (
            f'Effective receptive field of {erf.backbone}, stage {erf.stage}, {erf.size} pixels, '
            f'weights: {erf.weights}'
        )
        line['images'].append((erf.stage, erf_image(erf.values), text))
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
    shrink = max(1.0, max(height, width) / IMAGE_SIDE)
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


def draw_erf(maps: Sequence[ErfMap]) -> Picture:
    """A gallery: a row for each backbone, a column for each stage."""
    backbones = list(dict.fromkeys(erf.backbone for erf in maps))
    stages = sorted({erf.stage for erf in maps})
    figure, axes = panels(len(backbones), len(stages), 2.25, 2.3)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.set_frame_on(False)
    for first, backbone in zip(axes[:, 0], backbones, strict=True):
        first.set_ylabel(backbone)
    for erf in maps:
        axis = axes[backbones.index(erf.backbone), stages.index(erf.stage)]
        shown = np.maximum(erf.values, FAINTEST)
        axis.imshow(shown, norm=LogNorm(FAINTEST, 1), cmap='cividis')
        axis.set_title(f'stage {erf.stage}', fontsize='small')
    weights = dict.fromkeys(erf.weights for erf in maps)
    figure.suptitle(
        f"What the middle of each stage's map sees of a {maps[0].size} image (weights: "
        f'{", ".join(weights)}); colours in powers of ten',
        fontsize='small',
    )
    return figure
