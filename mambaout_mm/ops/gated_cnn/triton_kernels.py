"""Triton kernels for the gate of a Gated CNN block.

Maps are (N, H, W, channels) with a stride of 1 between channels. With ``g, i, c = split(h)``, a
depthwise kernel w of side k and p = k // 2, the gate is, channel by channel::

    m = cat(i, conv(c) + b)    conv(c)[y, x] = sum over v, u of w[v, u] c[y + v - p, x + u - p]
    gate = act(g) m

and its gradients, with d for the gradient of conv(c)::

    grad_g = grad_gate m act'(g)                grad_i and d: the parts of grad_gate act(g)
    grad_c[y, x] = sum over v, u of w[v, u] d[y - v + p, x - u + p]
    grad_w[v, u] = sum over y, x of d[y, x] c[y + v - p, x + u - p]        grad_b = sum of d

The channels of g and of the gate are of two kinds: *plain* channels meet i, *convolved* channels
meet conv(c). The parts of h are read where they are.

On a large GPU in bfloat16 the convolution's arithmetic takes about as long as its memory traffic.
So a thread keeps 8 pixels side by side in registers, for 4 channels, and a column that it loads
feeds all taps that it meets. Of the instructions for one row of a kernel of side 7, 345 in the
convolutions and 411 for grad_w, 224 are multiply-adds. Plain channels have little to compute and
much to load; their programs run at the same time. ptxas gives a thread 96 registers in bfloat16, in
the second launch 113, so that five and four programs fit on a multiprocessor.
"""

# ruff: noqa: ANN001, ANN201, ANN202, B007, RUF005 -- kernels: Triton's arguments, tuples joined with +
import triton
import triton.language as tl

from .triton_tiles import (
    BLOCK,
    COLUMNS,
    GROUPS,
    WARPS,
    at,
    convolve,
    edges,
    load,
    locate,
    per_channel,
    store_gate,
    widen,
)

if not hasattr(tl, 'tuple'):
    raise ImportError(f'Triton {triton.__version__} has no tuples in kernels; 3.3 and later do')

# Elements of a tile of plain channels: 16 for each thread, two loads in bfloat16.
TILE = tl.constexpr(16 * 32 * WARPS)
# Rows of a tile of the weight's gradient, one after the other.
SPAN = tl.constexpr(8)
# Arguments of kernels that change with the image's size: not to be compiled in.
SIZES = ('height', 'width', 'doublings')
COUNTS = ('pixels', 'conv_programs', 'plain_programs')


@triton.jit
def _take_turns(pid, conv_programs, plain_programs):
    """Whether program ``pid`` has convolved channels, and how many programs before it have.

    Both kinds alternate evenly, so that one computes while the other waits for memory.
    """
    period = (conv_programs + plain_programs) // conv_programs
    convolves = (pid % period == 0) & (pid // period < conv_programs)
    return convolves, tl.minimum(tl.cdiv(pid, period), conv_programs)


@triton.jit
def _gate_convolved(
    index, h, gate, grad_gate, grad_h, grad_conv, taps, bias, size, doublings,
    HIDDEN: tl.constexpr, CHANNELS: tl.constexpr, KERNEL_SIZE: tl.constexpr, GELU: tl.constexpr,
):  # fmt: skip
    """Gate, and grad_g and d if there is grad_gate, in tile ``index`` of convolved channels."""
    position, channel = locate(index, size, doublings, CHANNELS)
    data = at(h, position) + (2 * HIDDEN - CHANNELS + channel)
    first = per_channel(bias, channel, CHANNELS)
    mixed = convolve(h, data, taps, position, channel, size, first, CHANNELS, KERNEL_SIZE, False)
    right = edges((position[1] < size[0]) & (channel < CHANNELS), position[2], size[1])[1]
    d = None
    if grad_conv is not None:
        d = (at(grad_conv, position) + channel, grad_conv[3])
    channel += HIDDEN - CHANNELS
    store_gate(h, gate, grad_gate, grad_h, position, channel, mixed, d, right, COLUMNS, GELU)


@triton.jit
def _gate_plain(
    index, h, gate, grad_gate, grad_h, size, pixels, HIDDEN: tl.constexpr, CHANNELS: tl.constexpr,
    GELU: tl.constexpr, WIDE: tl.constexpr, ONE_ROW: tl.constexpr,
):  # fmt: skip
    """Gate, and grad_g and grad_i if there is grad_gate, in tile ``index`` of plain channels."""
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
    position = (n, row, column)
    right = edges(channel < INNER, column, columns)[1]
    i = load(at(h, position) + (HIDDEN + channel), right < 0)
    grad_i = None
    if grad_h is not None:
        grad_i = (at(grad_h, position) + (HIDDEN + channel), 0)
    store_gate(h, gate, grad_gate, grad_h, position, channel, (i,), grad_i, right, 1, GELU)


@triton.jit
def _input_gradient(
    index, grad_conv, grad_h, taps, size, doublings, HIDDEN: tl.constexpr, CHANNELS: tl.constexpr,
    KERNEL_SIZE: tl.constexpr,
):  # fmt: skip
    """grad_c from d, in tile ``index``."""
    position, channel = locate(index, size, doublings, CHANNELS)
    data = at(grad_conv, position) + channel
    first = tl.zeros((GROUPS, BLOCK), tl.float32)
    sums = convolve(
        grad_conv, data, taps, position, channel, size, first, CHANNELS, KERNEL_SIZE, True
    )
    right = edges((position[1] < size[0]) & (channel < CHANNELS), position[2], size[1])[1]
    target = at(grad_h, position) + (2 * HIDDEN - CHANNELS + channel)
    for s in tl.static_range(COLUMNS):
        tl.store(target + s * grad_h[3], sums[s], mask=right < -s)


@triton.jit
def _weight_gradient(
    index, h, grad_conv, parts, items, items_per_part, size, HIDDEN: tl.constexpr,
    CHANNELS: tl.constexpr, KERNEL_SIZE: tl.constexpr, LANES: tl.constexpr, SPOTS: tl.constexpr,
):  # fmt: skip
    """A part of grad_w and grad_b: their sums over some items, in a block of channels.

    An item is SPAN rows of SPOTS groups of pixels side by side. A tile is (SPOTS * LANES, BLOCK):
    each group has a lane for every row v of the kernel, which multiplies d of the group with row
    y + v - p of c, and keeps row v of grad_w: a total for each u. One lane more multiplies d with
    ones in place of c; its first total is grad_b. The lanes after it do nothing.
    """
    height, width = size
    BLOCKS: tl.constexpr = (CHANNELS + BLOCK - 1) // BLOCK
    part = index // BLOCKS
    channel = index % BLOCKS * BLOCK + tl.arange(0, BLOCK)[None, :]
    lane = tl.arange(0, SPOTS * LANES)[:, None] % LANES
    spot = tl.arange(0, SPOTS * LANES)[:, None] // LANES
    # What stands for c where it is not loaded: zeros around the map, ones in the lane for grad_b.
    ones = tl.where(lane < KERNEL_SIZE, 0.0, 1.0) + tl.zeros_like(channel)
    absent = ones.to(h[0].dtype.element_ty)
    spans = tl.cdiv(height, SPAN)
    strips = tl.cdiv(width, SPOTS * COLUMNS)
    totals = ()
    for u in tl.static_range(KERNEL_SIZE):
        totals = totals + (tl.zeros((SPOTS * LANES, BLOCK), tl.float32),)
    for item in range(part * items_per_part, tl.minimum((part + 1) * items_per_part, items)):
        n = item // spans // strips
        column = (item // spans % strips * SPOTS + spot) * COLUMNS
        top = item % spans * SPAN
        for row in range(top, tl.minimum(top + SPAN, height)):
            position = (n, row, column)
            ds = _load_group(
                grad_conv, position, channel, (lane <= KERNEL_SIZE) & (channel < CHANNELS), width
            )
            totals = _add_row(
                totals, ds, h, position, channel, lane, absent, size, HIDDEN, CHANNELS, KERNEL_SIZE
            )
    size_of_part: tl.constexpr = (KERNEL_SIZE * KERNEL_SIZE + 1) * CHANNELS
    data = parts + tl.cast(part, tl.int64) * size_of_part + channel
    tap = tl.arange(0, LANES)[:, None] * KERNEL_SIZE
    for u in tl.static_range(KERNEL_SIZE):
        total = tl.sum(tl.reshape(totals[u], (SPOTS, LANES, BLOCK)), axis=0)
        mask = (tap + u <= KERNEL_SIZE * KERNEL_SIZE) & (channel < CHANNELS)
        tl.store(data + (tap + u) * CHANNELS, total, mask=mask)


@triton.jit
def _load_group(x, position, channel, inside, width):
    """The COLUMNS pixels of each group, zeros where not ``inside``, in float32."""
    right = edges(inside, position[2], width)[1]
    data = at(x, position) + channel
    pixels = ()
    for s in tl.static_range(COLUMNS):
        pixels = pixels + (load(data + s * x[3], right < -s),)
    return pixels


@triton.jit
def _add_row(
    totals, ds, h, position, channel, lane, absent, size, HIDDEN: tl.constexpr,
    CHANNELS: tl.constexpr, KERNEL_SIZE: tl.constexpr,
):  # fmt: skip
    """totals[u] + sum over s of ds[s] c[x + s + u - p], with each lane's own row of c.

    Column j of the row, at x + j - p, is loaded once and feeds all u and s with u + s = j.
    """
    height, width = size
    n, row, column = position
    PAD: tl.constexpr = KERNEL_SIZE // 2
    source = row + lane - PAD
    inside = (source >= 0) & (source < height) & (lane < KERNEL_SIZE) & (channel < CHANNELS)
    left, right = edges(inside, column, width)
    data = at(h, (n, source, column)) + (2 * HIDDEN - CHANNELS + channel)
    for j in tl.static_range(COLUMNS + KERNEL_SIZE - 1):
        mask = left >= PAD - j if j < PAD else right < PAD - j
        value = widen(tl.load(data + (j - PAD) * h[3], mask=mask, other=absent))
        added = ()
        for u in tl.static_range(KERNEL_SIZE):
            if j - u >= 0 and j - u < COLUMNS:
                added = added + (totals[u] + ds[j - u] * value,)
            else:
                added = added + (totals[u],)
        totals = added
    return totals


@triton.jit(do_not_specialize=[*SIZES, *COUNTS])
def forward_kernel(
    h, gate, taps, bias, height, width, doublings, pixels, conv_programs, plain_programs,
    HIDDEN: tl.constexpr, CHANNELS: tl.constexpr, KERNEL_SIZE: tl.constexpr, GELU: tl.constexpr,
    WIDE: tl.constexpr, ONE_ROW: tl.constexpr,
):  # fmt: skip
    """The forward pass."""
    pid = tl.program_id(0)
    size = (height, width)
    convolves, index = _take_turns(pid, conv_programs, plain_programs)
    if convolves:
        _gate_convolved(
            index, h, gate, None, None, None, taps, bias, size, doublings, HIDDEN, CHANNELS,
            KERNEL_SIZE, GELU,
        )  # fmt: skip
    elif HIDDEN > CHANNELS:
        _gate_plain(
            pid - index, h, gate, None, None, size, pixels, HIDDEN, CHANNELS, GELU, WIDE, ONE_ROW
        )


@triton.jit(do_not_specialize=[*SIZES])
def gate_kernel(
    h, gate, grad_gate, grad_h, grad_conv, taps, bias, height, width, doublings,
    HIDDEN: tl.constexpr, CHANNELS: tl.constexpr, KERNEL_SIZE: tl.constexpr, GELU: tl.constexpr,
):  # fmt: skip
    """First launch of the backward pass."""
    _gate_convolved(
        tl.program_id(0), h, gate, grad_gate, grad_h, grad_conv, taps, bias, (height, width),
        doublings, HIDDEN, CHANNELS, KERNEL_SIZE, GELU,
    )  # fmt: skip


@triton.jit(
    do_not_specialize=[*SIZES, *COUNTS, 'weight_programs', 'items', 'items_per_part'],
)
def gradient_kernel(
    h, gate, grad_gate, grad_h, grad_conv, taps, parts, weight_programs, items, items_per_part,
    height, width, doublings, pixels, conv_programs, plain_programs, HIDDEN: tl.constexpr,
    CHANNELS: tl.constexpr, KERNEL_SIZE: tl.constexpr, GELU: tl.constexpr, WIDE: tl.constexpr,
    ONE_ROW: tl.constexpr, LANES: tl.constexpr, SPOTS: tl.constexpr,
):  # fmt: skip
    """Second launch of the backward pass; the programs that run longest come first."""
    pid = tl.program_id(0)
    size = (height, width)
    if pid < weight_programs:
        _weight_gradient(
            pid, h, grad_conv, parts, items, items_per_part, size, HIDDEN, CHANNELS, KERNEL_SIZE,
            LANES, SPOTS,
        )  # fmt: skip
    else:
        pid -= weight_programs
        convolves, index = _take_turns(pid, conv_programs, plain_programs)
        if convolves:
            _input_gradient(
                index, grad_conv, grad_h, taps, size, doublings, HIDDEN, CHANNELS, KERNEL_SIZE
            )
        elif HIDDEN > CHANNELS:
            _gate_plain(
                pid - index, h, gate, grad_gate, grad_h, size, pixels, HIDDEN, CHANNELS, GELU,
                WIDE, ONE_ROW,
            )  # fmt: skip
