"""Depthwise convolutions of maps whose channels lie side by side.

On a CPU oneDNN's gradient of such a convolution's weight takes 15 to 60 times as long as its
forward pass (benchmarks/NOTES.md).

``reference.py``  the definition, and what runs everywhere else
``native.py``     CPU, float32 and bfloat16: C kernels in ``convolution.c`` and ``conv_gradient.c``
"""

from typing import Any

import torch
from torch import Tensor

from .. import native as libraries
from ..modes import by_definition, compute_dtype, exporting
from ..torch_versions import is_compiling
from . import native
from .reference import depthwise_conv_reference

__all__ = ['depthwise_conv']


def depthwise_conv(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Depthwise convolution with zeros around the map.

    Computes in the dtype of ``x``, or autocast's.

    Args:
        x (Tensor): (N, C, H, W), in any memory layout.
        weight (Tensor): (C, 1, k, k) with odd k.
        bias (Tensor, optional): (C,). Defaults to None.

    Returns:
        Tensor: (N, C, H, W).

    Raises:
        ValueError: If the weight or the bias does not fit.
    """
    channels, size = x.shape[1], weight.shape[-1]
    if weight.shape != (channels, 1, size, size) or size % 2 == 0:
        raise ValueError(
            f'depthwise_conv needs a weight ({channels}, 1, k, k) with odd k for {tuple(x.shape)}; '
            f'got {tuple(weight.shape)}'
        )
    if bias is not None and bias.shape != (channels,):
        raise ValueError(f'depthwise_conv needs a bias ({channels},), got {tuple(bias.shape)}')
    dtype = compute_dtype(x)
    if not _runs_in_c(x, dtype):
        return depthwise_conv_reference(x, weight, bias)
    tensors = (None if tensor is None else tensor.to(dtype) for tensor in (x, weight, bias))
    return _DepthwiseConv.apply(*tensors)


def _runs_in_c(x: Tensor, dtype: torch.dtype) -> bool:
    """Whether the C kernels run. No other place decides this."""
    return (
        not is_compiling()  # first: Dynamo of PyTorch 2.1 cannot look a dtype up
        and x.device.type == 'cpu'
        and dtype in libraries.DTYPES
        and x.numel() > 0
        and not exporting()
        and not by_definition()
        and libraries.kernels() is not None
    )


class _DepthwiseConv(torch.autograd.Function):
    """The C kernels as a function that autograd knows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return native.convolve(x.permute(0, 2, 3, 1), weight, bias).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        if torch.is_grad_enabled():  # for a second derivative
            return _differentiable_backward(grad, x, weight, ctx.needs_input_grad)
        grad, map_x = (tensor.permute(0, 2, 3, 1) for tensor in (grad, x))  # (N, H, W, C)
        grad_x = native.input_gradient(grad, weight).permute(0, 3, 1, 2) if of_x else None
        grad_weight = grad_bias = None
        if of_weight or of_bias:
            sums = native.conv_gradients(map_x, grad, weight.shape[-1])
            grad_weight, grad_bias = (total.to(weight.dtype) for total in sums)
        return grad_x, grad_weight if of_weight else None, grad_bias if of_bias else None


def _differentiable_backward(
    grad: Tensor, x: Tensor, weight: Tensor, needed: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    padding = [weight.shape[-1] // 2] * 2
    return torch.ops.aten.convolution_backward(
        grad,
        x,
        weight,
        bias_sizes=[len(weight)],
        stride=[1, 1],
        padding=padding,
        dilation=[1, 1],
        transposed=False,
        output_padding=[0, 0],
        groups=len(weight),
        output_mask=list(needed),
    )
