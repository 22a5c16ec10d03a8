"""The branch of a Gated CNN block on a GPU: the libraries' matrix products around a gate.

It computes ``fc2(gate(fc1(norm(x))))``; maps are (N, H, W, C).

If a width is no multiple of 8, rows start unaligned, which makes the libraries' matrix products and
the kernels' loads slow (mambaout_base has h = 341, 682 and 1365). So i, and the part of g that is
multiplied with i, get zero channels at their ends, and fc2 gets zero columns: act(0) * 0 = 0, and
only the order of summation changes.
"""

from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from .parameters import Parameters

ALIGNMENT = 8


class Composed:
    """The branch around a given gate.

    Args:
        gate (ModuleType): Has ``forward`` and ``backward`` for the gate, as ``plain_gate.py`` has.
    """

    def __init__(self, gate: ModuleType) -> None:
        self.gate = gate

    @staticmethod
    def kept_widths(hidden: int, conv_dim: int) -> tuple[int, int]:
        """Widths of the two tensors that the forward pass keeps: fc1's output, and nothing."""
        return 2 * (hidden - hidden % -ALIGNMENT), 0

    def forward(
        self, x: Tensor, parameters: Parameters, activation: str, eps: float, keep: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Output (N, H, W, C); fc1's output (N, H, W, 2h), empty unless ``keep``; and nothing."""
        p = _align(parameters)
        n = _normalise(x, p, eps)[0].to(p.fc1_weight.dtype)
        h = F.linear(n, p.fc1_weight, p.fc1_bias)  # (N, H, W, 2h)
        gate = self.gate.forward(h, p.conv_weight, p.conv_bias, p.widths[0], activation)
        y = F.linear(gate, p.fc2_weight, p.fc2_bias)  # (N, H, W, C)
        return y, h if keep else h.new_empty(0), h.new_empty(0)

    def backward(
        self,
        grad_y: Tensor,
        x: Tensor,
        parameters: Parameters,
        h: Tensor,
        _: Tensor,
        activation: str,
        eps: float,
    ) -> tuple[Tensor, Parameters]:
        """Gradients of x and of the parameters."""
        p = _align(parameters)
        n, mean, rstd = _normalise(x, p, eps)
        grad_h, grad_conv_weight, grad_conv_bias, gate = self.gate.backward(
            grad_y @ p.fc2_weight, h, p.conv_weight, p.conv_bias, p.widths[0], activation
        )
        grad_x, grad_norm_weight, grad_norm_bias = torch.ops.aten.native_layer_norm_backward(
            (grad_h @ p.fc1_weight).to(n.dtype),
            x.to(n.dtype),
            x.shape[-1:],
            mean,
            rstd,
            p.norm_weight,
            p.norm_bias,
            [True] * 3,
        )
        rows_y, rows_h = grad_y.flatten(0, 2), grad_h.flatten(0, 2)
        grads = Parameters(
            grad_norm_weight,
            grad_norm_bias,
            rows_h.t() @ n.to(h.dtype).flatten(0, 2),
            rows_h.sum(0),
            grad_conv_weight,
            grad_conv_bias,
            rows_y.t() @ gate.flatten(0, 2),
            rows_y.sum(0),
        )
        return grad_x.to(x.dtype), _without_padding(grads, parameters)


def _normalise(x: Tensor, p: Parameters, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """LayerNorm in the wider dtype, as autocast has it; each pixel's mean and 1 / deviation."""
    x = x.to(torch.promote_types(x.dtype, p.norm_weight.dtype))
    return torch.native_layer_norm(x, x.shape[-1:], p.norm_weight, p.norm_bias, eps)


def _align(p: Parameters) -> Parameters:
    """Parameters of the same branch with a width that is a multiple of 8."""
    count, ends = _padding(p)
    if not count:
        return p
    return p._replace(
        fc1_weight=_insert_zeros(p.fc1_weight, ends, count),
        fc1_bias=_insert_zeros(p.fc1_bias, ends, count),
        fc2_weight=_insert_zeros(p.fc2_weight.t(), ends[:1], count).t().contiguous(),
    )


def _without_padding(grads: Parameters, p: Parameters) -> Parameters:
    """Gradients of ``p``, given those of ``_align(p)``."""
    count, ends = _padding(p)
    if not count:
        return grads
    return grads._replace(
        fc1_weight=_remove_rows(grads.fc1_weight, ends, count),
        fc1_bias=_remove_rows(grads.fc1_bias, ends, count),
        fc2_weight=_remove_rows(grads.fc2_weight.t(), ends[:1], count).t(),
    )


def _padding(p: Parameters) -> tuple[int, tuple[int, int]]:
    """How many channels are missing, and in front of which of fc1's rows they go."""
    hidden, inner, _ = p.widths
    return -hidden % ALIGNMENT, (inner, hidden + inner)


def _insert_zeros(x: Tensor, before: tuple[int, ...], count: int) -> Tensor:
    zeros = x.new_zeros(count, *x.shape[1:])
    first, *others = x.tensor_split(before)
    return torch.cat([first, *(part for other in others for part in (zeros, other))])


def _remove_rows(x: Tensor, before: tuple[int, ...], count: int) -> Tensor:
    """The inverse of :func:`_insert_zeros`."""
    first, *others = x.tensor_split([end + k * count for k, end in enumerate(before)])
    return torch.cat([first, *(other[count:] for other in others)])
