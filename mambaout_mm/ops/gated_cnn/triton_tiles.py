"""What the gate's Triton kernels do with tiles: find, load, convolve, gate and store.

A map is a tuple: data, strides between images and between rows, and the stride between pixels,
which is compiled in. A position is a tuple: image, row and column, the last two for each pixel or
group of pixels of a tile. The last dimension of a tile is a block of channels.
"""

# ruff: noqa: ANN001, ANN201, B007, RUF005 -- kernels: Triton's arguments, tuples joined with +
import triton
import triton.language as tl

WARPS = 4
# A group has COLUMNS pixels side by side, in registers. With GROUPS of them in a tile a thread has
# 4 of BLOCK channels, whatever the dtype, so that all maps have one layout and none is exchanged.
BLOCK, COLUMNS, GROUPS = tl.constexpr(32), tl.constexpr(8), tl.constexpr(4 * WARPS)
FAR = tl.constexpr(1 << 30)


@triton.jit
def at(x, position):
    """Pointers to the first channel of the pixels at a position."""
    n, row, column = position
    offset = tl.cast(n, tl.int64) * x[1] + tl.cast(row, tl.int64) * x[2]
    return x[0] + (offset + column.to(tl.int64) * x[3])


@triton.jit
def load(data, mask):
    """Load in float32, with zeros where the mask is false."""
    return widen(tl.load(data, mask=mask, other=0.0))


@triton.jit
def widen(x):
    """To float32."""
    if x.dtype == tl.bfloat16:  # one instruction, where ptxas takes two for half of the elements
        return (x.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    else:
        return x.to(tl.float32)


@triton.jit
def per_channel(x, channel, CHANNELS: tl.constexpr):
    """One number for each channel, in the layout of a tile of groups."""
    every_group = tl.zeros((GROUPS, 1), tl.int32)
    return load(x + (channel + every_group), channel + every_group < CHANNELS)


@triton.jit
def locate(index, size, doublings, CHANNELS: tl.constexpr):
    """Position and channels of tile ``index``: 2**doublings groups side by side, others below.

    Blocks of channels that lie side by side in memory are neighbours in the grid too. The next
    neighbours are tiles one below the other, since they share more of the map than tiles side by
    side.
    """
    BLOCKS: tl.constexpr = (CHANNELS + BLOCK - 1) // BLOCK
    tile = index // BLOCKS
    across = 1 << doublings
    down = GROUPS >> doublings
    tiles_down = tl.cdiv(size[0], down)
    tiles_across = tl.cdiv(size[1], across * COLUMNS)
    group = tl.arange(0, GROUPS)[:, None]
    row = tile % tiles_down * down + (group >> doublings)
    column = (tile // tiles_down % tiles_across * across + (group & (across - 1))) * COLUMNS
    channel = index % BLOCKS * BLOCK + tl.arange(0, BLOCK)[None, :]
    return (tile // tiles_down // tiles_across, row, column), channel


@triton.jit
def edges(inside, column, width):
    """Two numbers, left and right, to tell by one comparison whether column + j is in the map.

    For a constant j below 0 it is where ``left >= -j``, for another j where ``right < -j``. Neither
    holds where ``inside`` is false or where the column itself is outside of the map.
    """
    inside = inside & (column < width)
    return tl.where(inside, column, -FAR), tl.where(inside, column - width, FAR)


@triton.jit
def convolve(
    x, data, taps, position, channel, size, first, CHANNELS: tl.constexpr,
    KERNEL_SIZE: tl.constexpr, TURNED: tl.constexpr,
):  # fmt: skip
    """Convolution for a tile of groups: COLUMNS times (GROUPS, BLOCK), in float32.

    Each column of a row is loaded once and feeds all taps that it meets: COLUMNS + KERNEL_SIZE - 1
    loads in place of COLUMNS * KERNEL_SIZE.

    Args:
        x (tuple): The map to convolve.
        data: Pointers to ``x`` at the position and channels of the tile.
        taps: (KERNEL_SIZE * KERNEL_SIZE, CHANNELS), in float32.
        position, channel: Of the tile.
        size (tuple): Height and width of the map.
        first: What the sums start from.
        TURNED: Whether to turn the kernel by 180 degrees.
    """
    PAD: tl.constexpr = KERNEL_SIZE // 2
    sums = ()
    for s in tl.static_range(COLUMNS):
        sums = sums + (first,)
    for ky in range(KERNEL_SIZE):
        row = position[1] + (ky - PAD)
        inside = (row >= 0) & (row < size[0]) & (channel < CHANNELS)
        left, right = edges(inside, position[2], size[1])
        line = data + (ky - PAD) * x[2]
        weights = ()
        for kx in tl.static_range(KERNEL_SIZE):
            tap = ky * KERNEL_SIZE + kx
            tap = KERNEL_SIZE * KERNEL_SIZE - 1 - tap if TURNED else tap
            weights = weights + (per_channel(taps + tap * CHANNELS, channel, CHANNELS),)
        for j in tl.static_range(COLUMNS + KERNEL_SIZE - 1):
            mask = left >= PAD - j if j < PAD else right < PAD - j
            value = load(line + (j - PAD) * x[3], mask)
            added = ()
            for s in tl.static_range(COLUMNS):
                if j - s >= 0 and j - s < KERNEL_SIZE:
                    added = added + (sums[s] + weights[j - s] * value,)
                else:
                    added = added + (sums[s],)
            sums = added
    return sums


@triton.jit
def store_gate(
    h, gate, grad_gate, grad_h, position, channel, others, grad_other, right, COUNT: tl.constexpr,
    GELU: tl.constexpr,
):  # fmt: skip
    """Store ``gate = act(g) * other``, and the gradients of g and ``other`` if there is grad_gate.

    Args:
        h, gate, grad_gate, grad_h (tuple): Maps; the two gradients may be None.
        position: Of the first of COUNT pixels side by side.
        channel: Of g in ``h``, and of the gate.
        others (tuple): The other factor, COUNT times a tile.
        grad_other (tuple): Where its gradient goes: pointers, and the stride between pixels.
        right: Of :func:`edges`.
    """
    for s in tl.static_range(COUNT):
        mask = right < -s
        g = load(at(h, position) + s * h[3] + channel, mask)
        value, share = activate(g, GELU)
        tl.store(at(gate, position) + s * gate[3] + channel, value * others[s], mask=mask)
        if grad_gate is not None:
            dy = load(at(grad_gate, position) + s * grad_gate[3] + channel, mask)
            dg = dy * others[s] * slope(g, value, share, GELU)
            tl.store(at(grad_h, position) + s * grad_h[3] + channel, dg, mask=mask)
            tl.store(grad_other[0] + s * grad_other[1], dy * value, mask=mask)


@triton.jit
def activate(g, GELU: tl.constexpr):
    """act(g), and act(g) / g: what the activation lets through."""
    if GELU:
        # P(Z < -a) = 2**p(a) for a standard normal Z, with p fitted on [0, 6.5]: the error of 2**p
        # is at most 1.1e-7 of it above 0.01, and 1.1e-9 below. So an element of the gate takes 18
        # instructions in all; with the library's erf, exact near 0 too, it would take 35.
        a = tl.minimum(tl.abs(g), 6.5)
        p = a * -1.8856755795071943e-6 + 2.783422053682937e-5
        p = p * a - 1.3052794154519575e-4
        p = p * a - 2.73023345835388e-4
        p = p * a + 7.242377847488923e-3
        p = p * a - 5.261931828621515e-2
        p = p * a - 0.4591689029380698
        p = p * a - 1.1511093516644901
        tail = tl.exp2(p * a - 1.0)
        return tl.where(g < 0.0, 0.0, g) - a * tail, tl.where(g < 0.0, tail, 1.0 - tail)
    else:
        share = 1.0 / (1.0 + tl.exp2(g * -1.4426950408889634))
        return g * share, share


@triton.jit
def slope(g, value, share, GELU: tl.constexpr):
    """d act / dg, from what ``activate`` returns."""
    if GELU:  # the normal density, 2**(-g**2 log2(e) / 2 - log2(2 pi) / 2)
        return share + g * tl.exp2(g * g * -0.7213475204444817 - 1.3257480647361595)
    else:
        return share + value * (1.0 - share)
