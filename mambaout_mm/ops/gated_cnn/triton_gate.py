"""The gate of a Gated CNN block on CUDA: launches of the kernels in ``triton_kernels.py``.

Triton compiles them on first use. Formulas and layouts are in that file.

The forward pass is one launch. The backward pass is two launches, since grad_c needs d from all
around. The first computes conv(c) once more and stores gate, grad_g and d in convolved channels.
The second has three kinds of program: for grad_w and grad_b; for grad_c, which is conv(d) with the
kernel turned by 180 degrees; and for everything in plain channels.

grad_w is summed by few programs, each over many tiles, then over these. No atomics: the same input
gives the same bits.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from .triton_kernels import SPAN, TILE, forward_kernel, gate_kernel, gradient_kernel
from .triton_tiles import BLOCK, COLUMNS, GROUPS, WARPS

# Programs for the weight's gradient: half of what a large GPU, with 130 multiprocessors, holds at
# once, so that they start together, and leave room for programs that wait for memory.
PROGRAMS = 256


def forward(
    h: Tensor, conv_weight: Tensor, conv_bias: Tensor, hidden: int, activation: str
) -> Tensor:
    """The gate, contiguous.

    Args:
        h (Tensor): fc1's output, (N, H, W, 2 * hidden).
        conv_weight (Tensor): (Cc, 1, k, k) with odd k.
        conv_bias (Tensor): (Cc,).
        hidden (int): Width of the gate.
        activation (str): 'gelu' (exact) or 'silu'.

    Returns:
        Tensor: (N, H, W, hidden), in the dtype of ``h``.
    """
    gate = h.new_empty((*h.shape[:-1], hidden))
    plan = _Plan(h, conv_weight, hidden, activation, h)
    with torch.cuda.device_of(h):
        forward_kernel[(plan.conv_programs + plan.plain_programs,)](
            _map(h),
            _map(gate),
            _taps(conv_weight),
            conv_bias,
            *plan.sizes,
            *plan.counts,
            **plan.constants,
            **plan.plain_constants,
        )
    return gate


def backward(
    grad_gate: Tensor,
    h: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    hidden: int,
    activation: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of h, conv_weight and conv_bias, and the gate once more.

    Args:
        grad_gate (Tensor): (N, H, W, hidden).
        h, conv_weight, conv_bias, hidden, activation: Arguments of :func:`forward`.

    Returns:
        tuple[Tensor, Tensor, Tensor, Tensor]: Three gradients, each in the shape and dtype of its
        tensor, and the gate, (N, H, W, hidden); contiguous.
    """
    if grad_gate.stride(-1) != 1:
        grad_gate = grad_gate.contiguous()
    channels, _, kernel_size, _ = conv_weight.shape
    gate = h.new_empty((*h.shape[:-1], hidden))
    grad_h = h.new_empty(h.shape)
    grad_conv = h.new_empty((*h.shape[:-1], channels))  # d
    plan = _Plan(h, conv_weight, hidden, activation, h, grad_gate)
    part_shape = (kernel_size * kernel_size + 1, channels)
    parts = h.new_empty((plan.parts, *part_shape), dtype=torch.float32)
    maps = _map(h), _map(gate), _map(grad_gate), _map(grad_h), _map(grad_conv)
    taps = _taps(conv_weight)
    weight_programs = plan.parts * plan.blocks
    with torch.cuda.device_of(h):
        gate_kernel[(plan.conv_programs,)](*maps, taps, conv_bias, *plan.sizes, **plan.constants)
        gradient_kernel[(weight_programs + plan.conv_programs + plan.plain_programs,)](
            *maps,
            taps,
            parts,
            weight_programs,
            plan.items,
            plan.items_per_part,
            *plan.sizes,
            *plan.counts,
            # Left to itself, ptxas stops at 96 and spills.
            maxnreg=128 if kernel_size < 12 and h.element_size() < 4 else 255,
            **plan.constants,
            **plan.plain_constants,
            **plan.weight_constants,
        )
    sums = parts.sum(0)  # (k * k + 1, Cc)
    grad_weight = conv_weight.new_empty(conv_weight.shape)
    grad_weight.view(channels, -1).copy_(sums[:-1].t())
    return grad_h, grad_weight, sums[-1].to(conv_bias.dtype), gate


class _Plan:
    """How the work of one call is cut.

    Args:
        h, conv_weight, hidden, activation: Of the call.
        maps (Tensor): The maps whose strides the caller chose.
    """

    def __init__(
        self, h: Tensor, conv_weight: Tensor, hidden: int, activation: str, *maps: Tensor
    ) -> None:
        self.batch, self.height, self.width, _ = h.shape
        channels, _, self.kernel_size, _ = conv_weight.shape
        self.blocks = triton.cdiv(channels, BLOCK.value)
        doublings = min(range(GROUPS.value.bit_length()), key=self._pixels_loaded)
        self.conv_programs = self._tiles(doublings) * self.blocks

        # Plain channels need no neighbours: all pixels are one row, unless strides forbid it.
        inner = hidden - channels
        wide = max(BLOCK.value, math.gcd(inner, 128))
        one_row = all(map(_has_even_pixels, maps))
        pixels = self.batch * self.height * self.width
        pieces = triton.cdiv(pixels if one_row else self.width, TILE.value // wide)
        rows = 1 if one_row else self.batch * self.height
        self.plain_programs = rows * pieces * triton.cdiv(inner, wide)

        # For the weight's gradient; one lane more than rows of the kernel, for the bias.
        lanes = triton.next_power_of_2(self.kernel_size + 1)
        spots = max(1, GROUPS.value // lanes)
        strips = triton.cdiv(self.width, spots * COLUMNS.value)
        self.items = self.batch * strips * triton.cdiv(self.height, SPAN.value)
        self.items_per_part = max(1, triton.cdiv(self.items, max(1, PROGRAMS // self.blocks)))
        self.parts = triton.cdiv(self.items, self.items_per_part)

        # Arguments of the kernels
        self.sizes = self.height, self.width, doublings
        self.counts = pixels, self.conv_programs, self.plain_programs
        self.constants = dict(
            HIDDEN=hidden,
            CHANNELS=channels,
            KERNEL_SIZE=self.kernel_size,
            GELU=activation == 'gelu',
            num_warps=WARPS,
        )
        self.plain_constants = dict(WIDE=wide, ONE_ROW=one_row)
        self.weight_constants = dict(LANES=lanes, SPOTS=spots)

    def _tile(self, doublings: int) -> tuple[int, int]:
        """Height and width of a tile with 2**doublings groups side by side, the others below."""
        return GROUPS.value >> doublings, COLUMNS.value << doublings

    def _tiles(self, doublings: int) -> int:
        tall, wide = self._tile(doublings)
        return self.batch * triton.cdiv(self.height, tall) * triton.cdiv(self.width, wide)

    def _pixels_loaded(self, doublings: int) -> int:
        """Pixels that the convolution loads for all tiles, with the pixels around each tile."""
        tall, wide = self._tile(doublings)
        around = self.kernel_size - 1
        return self._tiles(doublings) * (tall + around) * (wide + around)


def _has_even_pixels(x: Tensor) -> bool:
    """Whether one stride leads from each pixel to the next, over the ends of rows and images."""
    _, height, width, _ = x.shape
    return x.stride(1) == width * x.stride(2) and x.stride(0) == height * x.stride(1)


def _map(x: Tensor) -> tuple:
    """(N, H, W, C) for a kernel: data and strides.

    The stride between pixels is compiled in: a constant for a model, whatever the image's size.
    """
    return x, *x.stride()[:2], tl.constexpr(x.stride(2))


def _taps(conv_weight: Tensor) -> Tensor:
    """(Cc, 1, k, k) to (k * k, Cc) in float32."""
    shape = conv_weight[0].numel(), conv_weight.shape[0]
    taps = conv_weight.new_empty(shape, dtype=torch.float32)
    return taps.copy_(conv_weight.flatten(1).t())
