"""What the scan's Triton kernels do with tiles: find, load, store, add, and step sizes.

A tile is a tuple of TILE tensors (BLOCK,), one for each step, in float32. A lane of the warp has
its channel's element of each tensor in a register, so that going from step to step costs nothing.
A position is a tuple: batch item, group, and block of channels in the group.
"""

# ruff: noqa: ANN001, ANN201, ANN202, RUF005 -- kernels: Triton's arguments, tuples joined with +
import triton
import triton.language as tl

LEVELS = tl.constexpr(4)
TILE = tl.constexpr(1 << LEVELS.value)  # steps
BLOCK = tl.constexpr(32)  # channels, one for each lane of a warp
LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def locate(chunks, GROUPS: tl.constexpr, CHANNELS: tl.constexpr):
    """Chunk and position of a program, its channels' numbers among all groups, and their mask.

    Channels that lie side by side in memory are neighbours in the grid too.
    """
    pid = tl.program_id(0)
    BLOCKS: tl.constexpr = (CHANNELS + BLOCK - 1) // BLOCK
    block = pid % BLOCKS
    group = pid // BLOCKS % GROUPS
    chunk = pid // (BLOCKS * GROUPS) % chunks
    b = (pid // (BLOCKS * GROUPS) // chunks).to(tl.int64)
    d = block * BLOCK + tl.arange(0, BLOCK)
    return chunk, (b, group, block), group * CHANNELS + d, d < CHANNELS


@triton.jit
def _group(x, position):
    """Pointer to one group, from a tuple of data and strides."""
    return x[0] + position[0] * x[1] + tl.cast(position[1], tl.int64) * x[2]


@triton.jit
def _block(x, position):
    """Pointer to one block of channels."""
    return _group(x, position) + tl.cast(position[2] * BLOCK, tl.int64) * x[3]


@triton.jit
def per_channel(x, at, mask):
    """One number for each channel; zeros where x is None."""
    if x is None:
        return tl.zeros(at.shape, tl.float32)
    else:
        return tl.load(x + at, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def load(x, position, start, length, mask):
    """A tile of a series, zeros past the end of the sequence.

    ``x`` is data, four strides, and whether steps lie side by side.
    """
    lane = tl.arange(0, BLOCK)
    if x[5]:  # neighbouring lanes read neighbouring steps, then exchange them
        t = start + tl.arange(0, TILE)[:, None]
        data = _block(x, position) + (lane[None, :] * x[3] + t)
        tile = tl.load(data, mask=mask[None, :] & (t < length), other=0.0)
        return _unstack(tile.to(tl.float32))
    else:
        data = _block(x, position) + lane.to(tl.int64) * x[3] + tl.cast(start, tl.int64) * x[4]
        rows = ()
        for i in tl.static_range(TILE):
            row = tl.load(data + i * x[4], mask=mask & (i < length - start), other=0.0)
            rows = rows + (row.to(tl.float32),)
        return rows


@triton.jit
def store(x, rows, position, start, length, mask):
    """The counterpart of ``load``."""
    dtype = x[0].dtype.element_ty
    lane = tl.arange(0, BLOCK)
    if x[5]:
        t = start + tl.arange(0, TILE)[:, None]
        data = _block(x, position) + (lane[None, :] * x[3] + t)
        tl.store(data, _stack(rows).to(dtype), mask=mask[None, :] & (t < length))
    else:
        data = _block(x, position) + lane.to(tl.int64) * x[3] + tl.cast(start, tl.int64) * x[4]
        for i in tl.static_range(TILE):
            tl.store(data + i * x[4], rows[i].to(dtype), mask=mask & (i < length - start))


@triton.jit
def _unstack(x):
    """(TILE, BLOCK) to TILE times (BLOCK,), by halves."""
    parts = (x,)
    for level in tl.static_range(LEVELS):
        halves = ()
        for i in tl.static_range(1 << level):
            x = tl.reshape(parts[i], (2, TILE >> (level + 1), BLOCK))
            low, high = tl.split(tl.permute(x, (1, 2, 0)))
            halves = halves + (low, high)
        parts = halves
    rows = ()
    for i in tl.static_range(TILE):
        rows = rows + (tl.reshape(parts[i], (BLOCK,)),)
    return rows


@triton.jit
def _stack(rows):
    """The counterpart of ``_unstack``."""
    parts = ()
    for i in tl.static_range(TILE):
        parts = parts + (rows[i][None, :],)
    for level in tl.static_range(LEVELS):
        wholes = ()
        for i in tl.static_range(TILE >> (level + 1)):
            x = tl.permute(tl.join(parts[2 * i], parts[2 * i + 1]), (2, 0, 1))
            wholes = wholes + (tl.reshape(x, (2 << level, BLOCK)),)
        parts = wholes
    return parts[0]


@triton.jit
def load_shared(x, position, n, start, length):
    """TILE steps of what all channels of a group share, (TILE,): one step in each lane."""
    t = start + tl.arange(0, TILE)
    data = _group(x, position) + tl.cast(n, tl.int64) * x[3] + t.to(tl.int64) * x[4]
    return tl.load(data, mask=t < length, other=0.0).to(tl.float32)


@triton.jit
def pick(x, i):
    """Element i of (TILE,) for every channel of a block: one exchange between lanes."""
    return tl.gather(x, tl.full((BLOCK,), i, tl.int32), 0)


@triton.jit
def step_sizes(deltas, shift, start, length, SOFTPLUS: tl.constexpr):
    """dt of a tile; past the end of the sequence 0, which leaves a state as it is."""
    rows = ()
    for i in tl.static_range(TILE):
        x = deltas[i] + shift
        if SOFTPLUS:
            # log(1 + z) / z on [0, 1] by Remez, relative error 3e-8: 1 + z would round off the
            # digits of a small z. Above 20 what is added to x is below its last digit.
            z = tl.exp2(tl.abs(x) * -LOG2_E)
            p = z * 0.005232685245573521 - 0.029505198821425438
            p = p * z + 0.07822588086128235
            p = p * z - 0.1366323977708816
            p = p * z + 0.19106003642082214
            p = p * z - 0.2484298199415207
            p = p * z + 0.3331909775733948
            p = p * z - 0.4999949336051941
            p = p * z + 0.9999999403953552
            x = tl.maximum(x, 0.0) + p * z
        rows = rows + (tl.where(i < length - start, x, 0.0),)
    return rows


@triton.jit
def slope(dt, SOFTPLUS: tl.constexpr):
    """d dt / d delta: sigmoid(x), which is 1 - exp(-softplus(x)); Taylor where that cancels."""
    if SOFTPLUS:
        p = dt * -0.001388888888888889 + 0.008333333333333333
        p = p * dt - 0.041666666666666664
        p = p * dt + 0.16666666666666666
        p = p * dt - 0.5
        p = p * dt + 1.0
        return tl.where(dt < 0.25, p * dt, 1.0 - tl.exp2(dt * -LOG2_E))
    else:
        return tl.full(dt.shape, 1.0, tl.float32)


@triton.jit
def store_lane_sums(x, rows, start, length):
    """Store the sum over lanes of each row of a tile.

    Half of the lanes go on with half of the rows, each adding what its partner gives up, until lane
    l has its part of row l % TILE: TILE exchanges for a tile, where a sum for each row would take
    log2(BLOCK) times as many.
    """
    tl.static_assert(BLOCK == 2 * TILE)
    lane = tl.arange(0, BLOCK)
    for level in tl.static_range(LEVELS):
        upper = (lane & (TILE >> (level + 1))) != 0
        halves = ()
        for i in tl.static_range(TILE >> (level + 1)):
            low, high = rows[i], rows[(TILE >> (level + 1)) + i]
            given = tl.where(upper, low, high)
            taken = tl.gather(given, lane ^ (TILE >> (level + 1)), 0)
            halves = halves + (tl.where(upper, high, low) + taken,)
        rows = halves
    sums = rows[0] + tl.gather(rows[0], lane ^ TILE, 0)
    tl.store(x + start + lane, sums, mask=(lane < TILE) & (start + lane < length))
