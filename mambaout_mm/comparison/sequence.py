"""How long each stage's sequence is, and how far its outputs can see.

Paper: arXiv 2405.07992, section 3. A Transformer block with an MLP ratio of 4 costs 24 D^2 L +
4 D L^2, so attention's quadratic part passes the linear part at L = 6 D: the paper's measure of a
long sequence.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from timm.layers import Attention
from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor, nn

from mambaout_mm.backbones import PyramidBackbone
from mambaout_mm.backbones.plain import PlainBackbone

from .catalogue import Entry, PlainViT, build_without_pyramid, maps_of, stages_of
from .cost import SIZES
from .records import NAN, Record

KNOWN = 'MambaOut, the visual Mambas, ConvNeXt, Swin and ViT'
SIDE = 224  # of the image on which modules show their strides; no field depends on it
WINDOWED = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)


def sequence_records(entry: Entry, sizes: tuple[tuple[int, int], ...] = SIZES) -> Iterator[Record]:
    """Tokens, the ratio L / 6D and the theoretical receptive field of each stage.

    Args:
        entry (Entry): The backbone.
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
            size = f'{height}x{width}'
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
            **common | dict(section='receptive field'),
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
        # Each map comes from a scan of the whole image
        return dict.fromkeys(stages_of(model.out_strides), math.inf)
    if isinstance(model, PlainViT):
        global_modules = (Attention,)
    elif isinstance(model, PyramidBackbone) and model.global_modules is not None:
        global_modules = model.global_modules
    else:
        return None
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
            if isinstance(model, PlainViT):
                model(image)
                return {3: field}  # its stride is that of a pyramid's third stage
            x = image
            for i in range(model.num_stages):
                x = model.forward_stage(i, x)
                fields[i + 1] = field
    finally:
        for hook in hooks:
            hook.remove()
    return fields
