"""How long each stage's sequence is, and how far its outputs can see.

Paper: arXiv 2405.07992, section 3. A Transformer block with an MLP ratio of 4 costs 24 D^2 L +
4 D L^2, so attention's quadratic part passes the linear part at L = 6 D: the paper's measure of a
long sequence.
"""

import math
from collections.abc import Iterator
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure as Picture
from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor, nn

from mambaout_mm.backbones import PyramidBackbone
from mambaout_mm.backbones.plain import PlainBackbone

from ..catalogue import Network, build_without_pyramid, maps_of, stages_of
from ..counting import SIZES
from ..pictures import add_legend, looks_of, panels
from ..records import NAN, Record, size_text
from ..result import Comparison
from ..section import Section
from ..session import Session
from ..tables import Cell, Row, Table, number_text, pivot, plain, sort_key

KNOWN = 'MambaOut, the visual Mambas, ConvNeXt, Swin and ViT'
SIDE = 224  # of the image on which modules show their strides; no field depends on it
WINDOWED = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)


class SequenceSection(Section):
    """Tokens of each stage, their ratio to 6 D, and what can reach an output by its layers."""

    name = 'sequence'
    heading = 'Sequence length'
    template = """
<p>A Transformer block with an MLP ratio of 4 costs 24D²L + 4DL² for L tokens of D channels. Its
quadratic part, attention, passes the linear part at L = 6D: tokens / 6D above 1 is what the paper
calls a long sequence. Its examples are at stride 16, stage 3 of most backbones: 196 tokens at
224x224 are short for D = 384 (6D = 2304), 4000 at 800x1280 and 4096 at 512x2048 long. The table
asks this of the map that each stage has, whatever its mixer is. “Attention overtakes at” is the
side of the square image at which the ratio is 1.</p>
{% for table in tables %}{{ table_of(table, 'Sequence length') }}{% endfor %}
"""

    def records(self, session: Session) -> list[Record]:
        return session.by_backbone(
            self.name, session.entries, lambda entry: list(sequence_records(entry))
        )

    def tables(self, comparison: Comparison) -> list[Table]:
        """Tokens over 6D at each stage and size, and where that reaches 1."""
        rows = comparison.rows

        def show(row: Row) -> Cell:
            if row['quantity'] != 'tokens / 6D':
                return plain(row)
            tokens = rows.find(row, quantity='tokens')
            mark = 'long' if row['value'] > 1 else ''
            count = f'{number_text(tokens["value"])} tokens' if tokens else ''
            small = ': '.join(filter(None, (mark, count)))
            return Cell(
                number_text(row['value']), sort_key(row['value']), small, row['note'], mark=mark
            )

        def heading(row: Row) -> tuple[str, str]:
            at = f' at {row["size"]}' if row['size'] else ''
            unit = f', {row["unit"]}' if row['unit'] else ''
            return f'{row["quantity"]}{at}{unit}', row['setting']

        records = [row for row in rows.of(self.name) if row['quantity'] != 'tokens']
        return pivot(rows, records, self.name, heading, show)

    def pictures(self, comparison: Comparison) -> Iterator[tuple[str, Picture]]:
        frame = comparison.frame
        ratios = frame[(frame['quantity'] == 'tokens / 6D') & frame['value'].notna()]
        if len(ratios):
            yield self.name, draw_ratios(ratios)


def sequence_records(
    entry: Network, sizes: tuple[tuple[int, int], ...] = SIZES
) -> Iterator[Record]:
    """Tokens, the ratio L / 6D and the theoretical receptive field of each stage.

    Args:
        entry (Network): The backbone.
        sizes (tuple[tuple[int, int], ...]): Heights and widths. Defaults to 224x224, 800x1280 and
            512x2048.

    Yields:
        Record: 'tokens' and 'tokens / 6D' at each size; 'attention overtakes at', the side in
        pixels of the square image where L = 6D; 'theoretical receptive field' in pixels.
    """
    # A plain network has one sequence, whatever its pyramid makes of it
    backbone = build_without_pyramid(entry)
    channels, strides = maps_of(backbone)
    common = dict(section='sequence', backbone=entry.name, mixer=entry.mixer, origin='computed')
    stages = stages_of(strides)
    for dim, stride, number in zip(channels, strides, stages, strict=True):
        stage = dict(setting=f'stage {number}')
        for height, width in sizes:
            tokens = math.ceil(height / stride) * math.ceil(width / stride)
            size = size_text((height, width))
            yield Record(**common, **stage, quantity='tokens', size=size, value=tokens, unit='')
            ratio = tokens / (6 * dim)
            yield Record(**common, **stage, quantity='tokens / 6D', size=size, value=ratio, unit='')
        side = stride * math.sqrt(6 * dim)
        yield Record(**common, **stage, quantity='attention overtakes at', value=side, unit='px')
    fields = receptive_fields(backbone)
    for number in stages:
        value, note = NAN, f'not computed: known for {KNOWN} only'
        if fields is not None:
            value = fields[number]
            note = 'the whole image' if math.isinf(value) else ''
        if note == '' and any(isinstance(m, SwinTransformerBlock) for m in backbone.modules()):
            note = 'at most: how windows of different stages meet depends on the place'
        yield Record(
            **common | dict(section='receptive field'),  # which shows it
            setting=f'stage {number}',
            quantity='theoretical receptive field',
            value=value,
            unit='px',
            note=note,
        )


def receptive_fields(model: nn.Module) -> dict[int, float] | None:
    """Side in pixels of what can reach one output of each stage.

    From kernels and strides along the network: a k x k convolution on a map of stride s adds
    (k - 1) s, attention in w x w windows w s (at most), attention and scans over the whole map make
    it infinite.

    Args:
        model (nn.Module): MambaOut, a visual Mamba, ConvNeXt, Swin or ViT; others may hold
            something that is not known here.

    Returns:
        dict[int, float] | None: By the number of the stage, from 1; None for other models.
    """
    if isinstance(model, PlainBackbone):
        # Each map comes from scans or attention over the whole image
        return dict.fromkeys(stages_of(model.out_strides), math.inf)
    if not isinstance(model, PyramidBackbone) or model.global_modules is None:
        return None
    global_modules = model.global_modules
    field = 1.0

    def widen(module: nn.Module, inputs: tuple[Tensor, ...], _: Any) -> None:
        nonlocal field
        if isinstance(module, global_modules):
            field = math.inf
        elif isinstance(module, SwinTransformerBlock):
            stride = SIDE / inputs[0].shape[1]  # of (N, H, W, C)
            field += stride * module.window_size[0]
        else:
            stride = SIDE / inputs[0].shape[-1]  # of (N, C, H, W)
            kernel, dilation = (
                x if isinstance(x, int) else x[0]
                for x in (module.kernel_size, getattr(module, 'dilation', 1))
            )
            field += stride * dilation * (kernel - 1)

    hooks = [
        module.register_forward_hook(widen)
        for module in model.modules()
        if isinstance(module, (*WINDOWED, *global_modules, SwinTransformerBlock))
    ]
    fields = {}
    image = torch.zeros(1, 3, SIDE, SIDE)
    try:
        with torch.no_grad():
            x = image
            for i in range(model.num_stages):
                x = model.forward_stage(i, x)
                fields[i + 1] = field
    finally:
        for hook in hooks:
            hook.remove()
    return fields


def draw_ratios(rows: pd.DataFrame) -> Picture:
    """The ratio L / 6D of each stage, a panel for each image size.

    Args:
        rows (pd.DataFrame): Records of these ratios.
    """
    sizes = list(dict.fromkeys(rows['size']))
    figure, axes = panels(1, len(sizes), 5, 4, sharey=True)
    looks = looks_of(rows)
    for axis, size in zip(axes[0], sizes, strict=True):
        for number, (backbone, look) in enumerate(looks.items()):
            points = rows[(rows['size'] == size) & (rows['backbone'] == backbone)]
            stages = points['setting'].str.removeprefix('stage ').astype(int)
            axis.plot(
                stages + 0.6 * ((number + 0.5) / len(looks) - 0.5),  # side by side
                points['value'],
                **look | dict(linestyle=''),
                label=backbone,
            )
        axis.axhline(1, color='#555555', linestyle='--')
        axis.set(yscale='log', title=size, xlabel='stage', xticks=[1, 2, 3, 4])
        axis.grid(alpha=0.3, which='both')
    axes[0, 0].set_ylabel('tokens / 6D')
    add_legend(axes[0, -1], len(looks))
    figure.suptitle(
        "Above the dashed line attention's quadratic part costs more than its linear part",
        fontsize='small',
    )
    return figure
