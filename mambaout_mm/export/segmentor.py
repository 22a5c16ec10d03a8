"""Segmentors as one graph: pixels in, a class for each pixel out."""

import copy

import onnx
import torch
import torch.nn.functional as F
from mmseg.models import EncoderDecoder
from onnx import TensorProto, helper
from torch import Tensor, nn

from mambaout_mm.errors import UserError

from .preparation import Preparation


class PoolingByProducts(nn.Module):
    """``nn.AdaptiveAvgPool2d`` as two matrix products, which ONNX has for maps of any size.

    Args:
        size (int | tuple[int, int]): Of the result.
    """

    def __init__(self, size: int | tuple[int, int]) -> None:
        super().__init__()
        self.size = (size, size) if isinstance(size, int) else tuple(size)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, *size)."""
        rows, columns = (
            shares(bins, x.shape[axis], x) for bins, axis in zip(self.size, (2, 3), strict=True)
        )
        return rows @ x @ columns.T


def shares(bins: int, pixels: int, like: Tensor) -> Tensor:
    """Which share of each bin a pixel is, (bins, pixels): bins overlap as PyTorch's do."""
    i = torch.arange(bins, device=like.device)[:, None]
    first, end = (i * pixels) // bins, ((i + 1) * pixels + bins - 1) // bins
    position = torch.arange(pixels, device=like.device)
    inside = ((position >= first) & (position < end)).to(like.dtype)
    return inside / inside.sum(1, keepdim=True)


class ExportedSegmentor(nn.Module):
    """The network of a segmentor, from pixels to logits of the image's size.

    Args:
        model (EncoderDecoder): mmseg's, in eval mode.

    Raises:
        UserError: If it is none, or is tested in slices.
    """

    outputs = ('logits',)

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        if type(model) is not EncoderDecoder or model.out_channels == 1:
            raise UserError(
                'tools/export.py takes segmentors of type EncoderDecoder with two classes or more, '
                f'not {type(model).__name__} with {getattr(model, "out_channels", "?")} channels'
            )
        if model.test_cfg.mode != 'whole':
            raise UserError(
                f'model.test_cfg.mode is {model.test_cfg.mode!r}; the graph takes whole images: '
                "'whole'"
            )
        self.preparation = Preparation(model.data_preprocessor)
        self.model = copy.deepcopy(model)
        self.align_corners = model.align_corners
        for module in list(self.model.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.AdaptiveAvgPool2d):
                    setattr(module, name, PoolingByProducts(child.output_size))

    def forward(self, image: Tensor) -> Tensor:
        """Pixels (1, 3, H, W), uint8, to logits (1, classes, H, W)."""
        maps = self.model.extract_feat(self.preparation(image))
        logits = self.model.decode_head(maps)
        return F.interpolate(
            logits, image.shape[2:], mode='bilinear', align_corners=self.align_corners
        )


def add_argmax(graph: onnx.GraphProto, align_corners: bool) -> None:
    """Let a graph resize its logits to a size that it is given, and take the highest, in place.

    Its input ``size`` is the height and width of the labels, (2,) of int64: the image's own before
    it was resized, as mmseg does. Its output is ``labels``, (1, height, width) of int64.
    """
    (logits,) = graph.output
    graph.input.append(helper.make_tensor_value_info('size', TensorProto.INT64, [2]))
    mode = 'align_corners' if align_corners else 'pytorch_half_pixel'
    graph.node.extend(
        (
            helper.make_node('Shape', ['logits'], ['first_sizes'], start=0, end=2),
            helper.make_node('Concat', ['first_sizes', 'size'], ['sizes'], axis=0),
            helper.make_node(
                'Resize',
                ['logits', '', '', 'sizes'],
                ['resized'],
                mode='linear',
                coordinate_transformation_mode=mode,
            ),
            helper.make_node('ArgMax', ['resized'], ['labels'], axis=1, keepdims=0),
        )
    )
    graph.output.remove(logits)
    labels = helper.make_tensor_value_info('labels', TensorProto.INT64, [1, 'rows', 'columns'])
    graph.output.append(labels)
