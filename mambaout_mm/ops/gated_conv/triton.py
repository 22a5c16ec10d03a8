"""The gated convolution on CUDA, with kernels that Triton compiles on first use.

With ``g, i, c = split(x)``, a kernel w of size k and p = k // 2, the operator is, channel by
channel::

    m = cat(i, conv(c) + b)    conv(c)[y, x] = sum over v, u of w[v, u] c[y + v - p, x + u - p]
    out = act(g) m

and its gradients, with d for that of conv(c)::

    grad_g = grad_out m act'(g)                 grad_i and d: the parts of grad_out act(g)
    grad_c[y, x] = sum over v, u of w[v, u] d[y - v + p, x - u + p]
    grad_w[v, u] = sum over y, x of d[y, x] c[y + v - p, x + u - p]        grad_b = sum of d

The parts of x are read where they are. The forward pass is one launch. The backward pass is two,
since grad_c needs d from all around: the first computes conv(c) once more and stores out, grad_g
and d where the convolution is; the second has three kinds of program: for grad_w and grad_b, for
grad_c, which is conv(d) with the kernel turned, and for everything that faces i.

On a large GPU in bfloat16 the convolution's arithmetic takes about as long as its memory traffic.
So a thread keeps 8 pixels side by side in registers, for 4 channels, and a column that it loads
feeds all taps that it meets. Of the instructions for one row of a kernel of size 7, 345 in the
convolutions and 411 for grad_w, 224 are multiply-adds. What faces i has little to compute and much
to load, and runs at the same time. ptxas gives a thread 96 registers in bfloat16, in the second
launch 113, so that five and four programs fit on a multiprocessor.

grad_w is summed by few programs, each over many tiles, then over these. No atomics: the same input
gives the same bits.
"""

# ruff: noqa: ANN001, ANN202, B007, RUF005 -- kernels: Triton's arguments, tuples joined with +
import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from .triton_tiles import (
    BLOCK,
    COLUMNS,
    GROUPS,
    WARPS,
    at,
    convolve,
    edges,
    gate,
    load,
    locate,
    per_channel,
    widen,
)

if not hasattr(tl, 'tuple'):
    raise ImportError(f'Triton {triton.__version__} has no tuples in kernels; 3.3 and later do')

# Elements of a tile that faces i: 16 for each thread, two loads in bfloat16.
TILE = tl.constexpr(16 * 32 * WARPS)
# Rows of a tile of the weight's gradient, one after the other.
SPAN = tl.constexpr(8)
# Programs for the weight's gradient: half of what a large GPU, with 130 multiprocessors, holds at
# once, so that they start together, and leave room for those that wait for memory.
PROGRAMS = 256
# Arguments of kernels that change with the image's size: not to be compiled in.
SIZES, COUNTS = ('height', 'width', 'pixels', 'doublings'), ('convs', 'plains')


def forward(x: Tensor, weight: Tensor, bias: Tensor, hidden: int, activation: str) -> Tensor:
    """Output (N, H, W, hidden), contiguous."""
    y = x.new_empty((*x.shape[:-1], hidden))
    plan = _Plan(x, weight, hidden, activation, x)
    with torch.cuda.device_of(x):
        _forward_kernel[(plan.conv_programs + plan.plain_programs,)](
            _map(x),
            _map(y),
            _taps(weight),
            bias,
            plan.conv_programs,
            plan.plain_programs,
            *plan.sizes,
            **plan.constants,
        )
    return y


def backward(
    grad_y: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    hidden: int,
    activation: str,
    with_output: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Gradients of x, weight and bias, and the output once more if ``with_output``.

    grad_x and the output are contiguous, in the dtype of x.
    """
    if grad_y.stride(-1) != 1:
        grad_y = grad_y.contiguous()
    channels, _, kernel, _ = weight.shape
    y = x.new_empty((*x.shape[:-1], hidden)) if with_output else None
    grad_x = x.new_empty(x.shape)
    grad_mixed = x.new_empty((*x.shape[:-1], channels))
    plan = _Plan(x, weight, hidden, activation, x, grad_y)
    parts = x.new_empty((plan.parts, kernel * kernel + 1, channels), dtype=torch.float32)
    maps = (_map(x), _map(y), _map(grad_y), _map(grad_x), _map(grad_mixed), _taps(weight))
    weight_programs = plan.parts * plan.blocks
    with torch.cuda.device_of(x):
        _gate_kernel[(plan.conv_programs,)](*maps, bias, *plan.sizes, **plan.constants)
        _gradient_kernel[(weight_programs + plan.conv_programs + plan.plain_programs,)](
            *maps,
            parts,
            weight_programs,
            plan.items,
            plan.items_per_part,
            plan.conv_programs,
            plan.plain_programs,
            *plan.sizes,
            # Left to itself, ptxas stops at 96 and spills.
            maxnreg=128 if kernel < 12 and x.element_size() < 4 else 255,
            **plan.constants,
        )
    sums = parts.sum(0)  # (k * k + 1, Cc)
    grad_weight = weight.new_empty(weight.shape)
    grad_weight.view(channels, -1).copy_(sums[:-1].t())
    return grad_x, grad_weight, sums[-1].to(bias.dtype), y


class _Plan:
    """How the work of one call is cut.

    Args:
        x, weight, hidden, activation: Of the call.
        maps (Tensor): Those whose pixels have strides of the caller's choice.
    """

    def __init__(
        self, x: Tensor, weight: Tensor, hidden: int, activation: str, *maps: Tensor
    ) -> None:
        self.batch, self.height, self.width, _ = x.shape
        channels, _, self.kernel, _ = weight.shape
        self.blocks = triton.cdiv(channels, BLOCK.value)
        doublings = min(range(GROUPS.value.bit_length()), key=self._loaded)
        self.conv_programs = self._tiles(doublings) * self.blocks

        # Where there are no neighbours, all pixels are one row, unless strides do not allow it.
        inner = hidden - channels
        wide = max(BLOCK.value, math.gcd(inner, 128))
        one_row = all(map(_has_even_pixels, maps))
        pixels = self.batch * self.height * self.width
        pieces = triton.cdiv(pixels if one_row else self.width, TILE.value // wide)
        rows = 1 if one_row else self.batch * self.height
        self.plain_programs = rows * pieces * triton.cdiv(inner, wide)
        self.sizes = self.height, self.width, pixels, doublings

        # One lane more than rows of the kernel, for the bias.
        lanes = triton.next_power_of_2(self.kernel + 1)
        spots = max(1, GROUPS.value // lanes)
        strips = triton.cdiv(self.width, spots * COLUMNS.value)
        self.items = self.batch * strips * triton.cdiv(self.height, SPAN.value)
        self.items_per_part = max(1, triton.cdiv(self.items, max(1, PROGRAMS // self.blocks)))
        self.parts = triton.cdiv(self.items, self.items_per_part)
        self.constants = dict(
            HIDDEN=hidden,
            CHANNELS=channels,
            KERNEL=self.kernel,
            GELU=activation == 'gelu',
            WIDE=wide,
            ONE_ROW=one_row,
            LANES=lanes,
            SPOTS=spots,
            num_warps=WARPS,
        )

    def _tile(self, doublings: int) -> tuple[int, int]:
        """Height and width of a tile with 2**doublings groups side by side, the others below."""
        return GROUPS.value >> doublings, COLUMNS.value << doublings

    def _tiles(self, doublings: int) -> int:
        tall, wide = self._tile(doublings)
        return self.batch * triton.cdiv(self.height, tall) * triton.cdiv(self.width, wide)

    def _loaded(self, doublings: int) -> int:
        """Pixels that all tiles load, with those around."""
        tall, wide = self._tile(doublings)
        return self._tiles(doublings) * (tall + self.kernel - 1) * (wide + self.kernel - 1)


def _has_even_pixels(x: Tensor) -> bool:
    """Whether one stride leads from each pixel to the next, over the ends of rows and images."""
    _, height, width, _ = x.shape
    return x.stride(1) == width * x.stride(2) and x.stride(0) == height * x.stride(1)


def _map(x: Tensor | None) -> tuple | None:
    """(N, H, W, C) for a kernel: data and strides.

    That between pixels is compiled in: a constant for a model, whatever the image's size.
    """
    return None if x is None else (x, *x.stride()[:2], tl.constexpr(x.stride(2)))


def _taps(weight: Tensor) -> Tensor:
    """(Cc, 1, k, k) to (k * k, Cc) in float32."""
    taps = weight.new_empty((weight[0].numel(), weight.shape[0]), dtype=torch.float32)
    return taps.copy_(weight.flatten(1).t())


@triton.jit
def _turn(pid, convs, plains):
    """Whether it is the turn of a convolution, and how many came before; both evenly mixed."""
    period = (convs + plains) // convs
    return (pid % period == 0) & (pid // period < convs), tl.minimum(tl.cdiv(pid, period), convs)


@triton.jit
def _gate_convolution(
    index, x, y, grad_y, grad_x, grad_mixed, taps, bias, size, doublings, HIDDEN: tl.constexpr,
    CHANNELS: tl.constexpr, KERNEL: tl.constexpr, GELU: tl.constexpr,
):  # fmt: skip
    """Out, and grad_g and d if there are maps for them, where the convolution is."""
    place, channel = locate(index, size, doublings, CHANNELS)
    data = at(x, place) + (2 * HIDDEN - CHANNELS + channel)
    first = per_channel(bias, channel, CHANNELS)
    mixed = convolve(x, data, taps, place, channel, size, first, CHANNELS, KERNEL, False)
    right = edges((place[1] < size[0]) & (channel < CHANNELS), place[2], size[1])[1]
    d = None
    if grad_mixed is not None:
        d = (at(grad_mixed, place) + channel, grad_mixed[3])
    channel += HIDDEN - CHANNELS
    gate(x, y, grad_y, grad_x, place, channel, mixed, d, right, COLUMNS, GELU)


@triton.jit
def _gate_plain(
    index, x, y, grad_y, grad_x, size, pixels, HIDDEN: tl.constexpr, CHANNELS: tl.constexpr,
    GELU: tl.constexpr, WIDE: tl.constexpr, ONE_ROW: tl.constexpr,
):  # fmt: skip
    """Out, and grad_g and grad_i if there are maps for them, where i is."""
    INNER: tl.constexpr = HIDDEN - CHANNELS
    BLOCKS: tl.constexpr = (INNER + WIDE - 1) // WIDE
    PIXELS: tl.constexpr = TILE // WIDE
    channel = index % BLOCKS * WIDE + tl.arange(0, WIDE)[None, :]
    piece = index // BLOCKS
    n = 0
    row = 0
    columns = pixels
    if not ONE_ROW:
        columns = size[1]
        pieces = tl.cdiv(columns, PIXELS)
        n = piece // pieces // size[0]
        row = piece // pieces % size[0]
        piece = piece % pieces
    column = piece * PIXELS + tl.arange(0, PIXELS)[:, None]
    place = (n, row, column)
    right = edges(channel < INNER, column, columns)[1]
    i = load(at(x, place) + (HIDDEN + channel), right < 0)
    grad_i = None
    if grad_x is not None:
        grad_i = (at(grad_x, place) + (HIDDEN + channel), 0)
    gate(x, y, grad_y, grad_x, place, channel, (i,), grad_i, right, 1, GELU)


@triton.jit
def _input_gradient(
    index, grad_mixed, grad_x, taps, size, doublings, HIDDEN: tl.constexpr, CHANNELS: tl.constexpr,
    KERNEL: tl.constexpr,
):  # fmt: skip
    """grad_c from d."""
    place, channel = locate(index, size, doublings, CHANNELS)
    data = at(grad_mixed, place) + channel
    first = tl.zeros((GROUPS, BLOCK), tl.float32)
    sums = convolve(grad_mixed, data, taps, place, channel, size, first, CHANNELS, KERNEL, True)
    right = edges((place[1] < size[0]) & (channel < CHANNELS), place[2], size[1])[1]
    target = at(grad_x, place) + (2 * HIDDEN - CHANNELS + channel)
    for s in tl.static_range(COLUMNS):
        tl.store(target + s * grad_x[3], sums[s], mask=right < -s)


@triton.jit
def _weight_gradient(
    index, x, grad_mixed, parts, items, items_per_part, size, HIDDEN: tl.constexpr,
    CHANNELS: tl.constexpr, KERNEL: tl.constexpr, LANES: tl.constexpr, SPOTS: tl.constexpr,
):  # fmt: skip
    """A part of grad_w and grad_b, (KERNEL * KERNEL + 1, CHANNELS).

    A tile has SPOTS groups of pixels, each once for every row of the kernel: a thread multiplies d
    of its group with one row of c and keeps that row of grad_w. In the lane after the last row of
    the kernel c is 1 all over, which gives grad_b.
    """
    height, width = size
    BLOCKS: tl.constexpr = (CHANNELS + BLOCK - 1) // BLOCK
    PAD: tl.constexpr = KERNEL // 2
    part = index // BLOCKS
    channel = index % BLOCKS * BLOCK + tl.arange(0, BLOCK)[None, :]
    lane = tl.arange(0, SPOTS * LANES)[:, None] % LANES
    spot = tl.arange(0, SPOTS * LANES)[:, None] // LANES
    # What c is where it is masked: outside of the map 0.
    absent = (tl.where(lane < KERNEL, 0.0, 1.0) + tl.zeros_like(channel)).to(x[0].dtype.element_ty)
    spans = tl.cdiv(height, SPAN)
    strips = tl.cdiv(width, SPOTS * COLUMNS)
    totals = ()
    for u in tl.static_range(KERNEL):
        totals = totals + (tl.zeros((SPOTS * LANES, BLOCK), tl.float32),)
    for item in range(part * items_per_part, tl.minimum((part + 1) * items_per_part, items)):
        n = item // spans // strips
        column = (item // spans % strips * SPOTS + spot) * COLUMNS
        top = item % spans * SPAN
        for row in range(top, tl.minimum(top + SPAN, height)):
            right = edges((lane <= KERNEL) & (channel < CHANNELS), column, width)[1]
            data = at(grad_mixed, (n, row, column)) + channel
            ds = ()
            for s in tl.static_range(COLUMNS):
                ds = ds + (load(data + s * grad_mixed[3], right < -s),)
            source = row + lane - PAD
            inside = (source >= 0) & (source < height) & (lane < KERNEL) & (channel < CHANNELS)
            left, right = edges(inside, column, width)
            data = at(x, (n, source, column)) + (2 * HIDDEN - CHANNELS + channel)
            for j in tl.static_range(COLUMNS + KERNEL - 1):
                mask = left >= PAD - j if j < PAD else right < PAD - j
                value = widen(tl.load(data + (j - PAD) * x[3], mask=mask, other=absent))
                added = ()
                for u in tl.static_range(KERNEL):
                    if j - u >= 0 and j - u < COLUMNS:
                        added = added + (totals[u] + ds[j - u] * value,)
                    else:
                        added = added + (totals[u],)
                totals = added
    tap = tl.arange(0, LANES)[:, None] * KERNEL
    data = parts + tl.cast(part, tl.int64) * ((KERNEL * KERNEL + 1) * CHANNELS) + channel
    for u in tl.static_range(KERNEL):
        total = tl.sum(tl.reshape(totals[u], (SPOTS, LANES, BLOCK)), axis=0)
        mask = (tap + u <= KERNEL * KERNEL) & (channel < CHANNELS)
        tl.store(data + (tap + u) * CHANNELS, total, mask=mask)


@triton.jit(do_not_specialize=[*SIZES, *COUNTS])
def _forward_kernel(
    x, y, taps, bias, convs, plains, height, width, pixels, doublings, HIDDEN: tl.constexpr,
    CHANNELS: tl.constexpr, KERNEL: tl.constexpr, GELU: tl.constexpr, WIDE: tl.constexpr,
    ONE_ROW: tl.constexpr, LANES: tl.constexpr, SPOTS: tl.constexpr,
):  # fmt: skip
    """The forward pass."""
    pid = tl.program_id(0)
    size = (height, width)
    mixes, index = _turn(pid, convs, plains)
    if mixes:
        _gate_convolution(
            index, x, y, None, None, None, taps, bias, size, doublings, HIDDEN, CHANNELS, KERNEL,
            GELU,
        )  # fmt: skip
    elif HIDDEN > CHANNELS:
        _gate_plain(
            pid - index, x, y, None, None, size, pixels, HIDDEN, CHANNELS, GELU, WIDE, ONE_ROW
        )


@triton.jit(do_not_specialize=[*SIZES])
def _gate_kernel(
    x, y, grad_y, grad_x, grad_mixed, taps, bias, height, width, pixels, doublings,
    HIDDEN: tl.constexpr, CHANNELS: tl.constexpr, KERNEL: tl.constexpr, GELU: tl.constexpr,
    WIDE: tl.constexpr, ONE_ROW: tl.constexpr, LANES: tl.constexpr, SPOTS: tl.constexpr,
):  # fmt: skip
    """First launch of the backward pass."""
    _gate_convolution(
        tl.program_id(0), x, y, grad_y, grad_x, grad_mixed, taps, bias, (height, width), doublings,
        HIDDEN, CHANNELS, KERNEL, GELU,
    )  # fmt: skip


@triton.jit(do_not_specialize=[*SIZES, *COUNTS, 'weights', 'items', 'items_per_part'])
def _gradient_kernel(
    x, y, grad_y, grad_x, grad_mixed, taps, parts, weights, items, items_per_part, convs, plains,
    height, width, pixels, doublings, HIDDEN: tl.constexpr, CHANNELS: tl.constexpr,
    KERNEL: tl.constexpr, GELU: tl.constexpr, WIDE: tl.constexpr, ONE_ROW: tl.constexpr,
    LANES: tl.constexpr, SPOTS: tl.constexpr,
):  # fmt: skip
    """Second launch of the backward pass; first the programs that run longest."""
    pid = tl.program_id(0)
    size = (height, width)
    if pid < weights:
        _weight_gradient(
            pid, x, grad_mixed, parts, items, items_per_part, size, HIDDEN, CHANNELS, KERNEL,
            LANES, SPOTS,
        )  # fmt: skip
    else:
        pid -= weights
        mixes, index = _turn(pid, convs, plains)
        if mixes:
            _input_gradient(
                index, grad_mixed, grad_x, taps, size, doublings, HIDDEN, CHANNELS, KERNEL
            )
        elif HIDDEN > CHANNELS:
            _gate_plain(
                pid - index, x, y, grad_y, grad_x, size, pixels, HIDDEN, CHANNELS, GELU, WIDE,
                ONE_ROW,
            )  # fmt: skip
