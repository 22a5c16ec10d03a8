"""Triton kernels for the selective scan.

Series like u are (b, G, D, L) and vectors like B (b, G, N, L), both with any strides; A is
(G * D, N). With a_t = exp(dt_t A) and b_t = dt_t B_t u_t, a chunk of the recurrence
``h_t = a_t h_{t-1} + b_t`` maps the state before it to its last state,
``h_end = exp(A * sum dt) h_start + E``; E is its last state if it starts from zero. So the sequence
is cut into chunks that run side by side, in three phases:

1. every chunk but the last: E, for each channel and state, and ``sum dt``, for each channel;
2. the state at the start of every chunk, from one chunk to the next;
3. every chunk again, from its start: y.

The adjoint ``g_t = C_t dy_t + a_{t+1} g_{t+1}`` runs through the same recurrence against time. In
terms of q_t = a_t g_t, which a step hands to the step before it, it is
``q_t = a_t (q_{t+1} + C_t dy_t)``. The same phases, with dy and C in place of u and B, end in the
gradients::

    grad_A = sum over t of q_t h_{t-1} dt_t         grad_B_t = sum over d of g_t dt_t u_t
    grad_dt = sum over n of g_t B_t u_t + q_t h_{t-1} A
    grad_u = sum over n of g_t B_t dt_t, + D dy_t   grad_C_t = sum over d of dy_t h_t

Nothing is divided by an accumulated decay, and a_t h_{t-1} is never computed as h_t - b_t, which
cancels where a step is long.

Phases 1 and 3 give each channel to one lane of a warp. A lane holds a tile of 16 steps in registers
and runs them one after the other, for one of the N states at a time, so lanes exchange little but
the sums over channels. From tile to tile a state waits in memory. No atomics: the same input gives
the same bits.
"""

# ruff: noqa: ANN001, ANN201, RUF005 -- kernels: Triton's arguments, tuples joined with +
import triton
import triton.language as tl

from .triton_tiles import (
    BLOCK,
    LOG2_E,
    TILE,
    load,
    load_shared,
    locate,
    per_channel,
    pick,
    slope,
    step_sizes,
    store,
    store_lane_sums,
)

if not hasattr(tl, 'tuple'):
    raise ImportError(f'Triton {triton.__version__} has no tuples in kernels; 3.3 and later do')

# Phase 2 reads chunks in tiles: rows in registers, parts and channels in lanes.
CARRY_ROWS, CARRY_PARTS, CARRY_CHANNELS = tl.constexpr(32), tl.constexpr(8), tl.constexpr(4)


@triton.jit(do_not_specialize=['length', 'tiles_per_chunk'])
def end_kernel(
    x,
    weights,
    delta,
    A,
    bias,
    slots,
    totals,
    length,
    tiles_per_chunk,
    GROUPS: tl.constexpr,
    CHANNELS: tl.constexpr,
    STATE: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    REVERSE: tl.constexpr,
):
    """Phase 1: the end of each chunk that starts from zero, and the sum of its steps."""
    tiles = tl.cdiv(length, TILE)
    count = tl.cdiv(tiles, tiles_per_chunk) - 1
    slot, position, channel, mask = locate(count, GROUPS, CHANNELS)
    shift = per_channel(bias, channel, mask)
    first = (slot + 1 if REVERSE else slot) * tiles_per_chunk
    last = tl.minimum(first + tiles_per_chunk, tiles) - 1
    slots_b = slots[0] + position[0] * slots[1] + slot.to(tl.int64) * slots[2] + channel
    total = tl.zeros((BLOCK,), tl.float32)
    for k in range(last + 1 - first):
        start = (last - k if REVERSE else first + k) * TILE
        xs = load(x, position, start, length, mask)
        dts = step_sizes(load(delta, position, start, length, mask), shift, start, length, SOFTPLUS)
        for i in tl.static_range(TILE):
            total += dts[i]
        for n in range(STATE):
            decay = per_channel(A, channel * STATE + n, mask) * LOG2_E
            ws = load_shared(weights, position, n, start, length)
            h = tl.load(slots_b + n * slots[3], mask=mask & (k > 0), other=0.0)
            if REVERSE:
                for i in tl.static_range(TILE - 1, -1, -1):
                    h = tl.exp2(dts[i] * decay) * (h + xs[i] * pick(ws, i))
            else:
                for i in tl.static_range(TILE):
                    h = tl.exp2(dts[i] * decay) * h + dts[i] * xs[i] * pick(ws, i)
            tl.store(slots_b + n * slots[3], h, mask=mask)
        tl.debug_barrier()  # the stores above, before the next tile's loads
    tl.store(totals + (position[0] * count + slot) * GROUPS * CHANNELS + channel, total, mask=mask)


@triton.jit(do_not_specialize=['count', 'channels', 'state', 'first', 'direction'])
def carry_kernel(slots, totals, A, count, channels, state, first, direction):
    """Phase 2, in place: from the ends of chunks that start from zero to the starts of the next.

    A program takes one state of a few channels along all chunks. Chunk after chunk it would wait
    for memory most of the time. So it reads CARRY_ROWS * CARRY_PARTS chunks at once and does in
    registers what the phases do in memory: each part from zero, the carry over parts, each part
    again.
    """
    columns = tl.cdiv(channels, CARRY_CHANNELS)
    pid = tl.program_id(0)
    n = pid // columns % state
    b = (pid // columns // state).to(tl.int64)
    channel = pid % columns * CARRY_CHANNELS + tl.arange(0, CARRY_CHANNELS)[None, :]
    part = tl.arange(0, CARRY_PARTS)[:, None]
    mask = channel < channels
    decay = per_channel(A, channel * state + n, mask) * LOG2_E
    next_slot = tl.cast(direction, tl.int64) * slots[2]
    next_total = tl.cast(direction, tl.int64) * channels
    carry = tl.zeros((1, CARRY_CHANNELS), tl.float32)
    for begin in range(0, count, CARRY_ROWS * CARRY_PARTS):
        at = begin + part * CARRY_ROWS
        left = tl.where(mask, count - at, 0)  # (CARRY_PARTS, CARRY_CHANNELS)
        row = (first + at * direction).to(tl.int64)
        slot = slots[0] + b * slots[1] + row * slots[2] + n * slots[3] + channel
        total = totals + (b * count + row) * channels + channel
        ends = ()  # CARRY_ROWS times (CARRY_PARTS, CARRY_CHANNELS)
        steps = ()
        h = tl.zeros((CARRY_PARTS, CARRY_CHANNELS), tl.float32)
        sums = tl.zeros((CARRY_PARTS, CARRY_CHANNELS), tl.float32)
        for i in tl.static_range(CARRY_ROWS):
            end = tl.load(slot + i * next_slot, mask=i < left, other=0.0)
            step = tl.load(total + i * next_total, mask=i < left, other=0.0)
            ends = ends + (end,)
            steps = steps + (step,)
        for i in tl.static_range(CARRY_ROWS):
            h = tl.exp2(steps[i] * decay) * h + ends[i]
            sums += steps[i]
        decays = tl.exp2(sums * decay)
        start = tl.zeros((CARRY_PARTS, CARRY_CHANNELS), tl.float32)
        for p in tl.static_range(CARRY_PARTS):
            start = tl.where(part == p, carry, start)
            carry *= tl.sum(tl.where(part == p, decays, 0.0), axis=0, keep_dims=True)
            carry += tl.sum(tl.where(part == p, h, 0.0), axis=0, keep_dims=True)
        for i in tl.static_range(CARRY_ROWS):
            start = tl.exp2(steps[i] * decay) * start + ends[i]
            tl.store(slot + i * next_slot, start, mask=i < left)


@triton.jit(do_not_specialize=['length', 'tiles_per_chunk'])
def output_kernel(
    u,
    delta,
    A,
    bias,
    B,
    C,
    D,
    y,
    states,
    length,
    tiles_per_chunk,
    GROUPS: tl.constexpr,
    CHANNELS: tl.constexpr,
    STATE: tl.constexpr,
    SOFTPLUS: tl.constexpr,
):
    """Phase 3: the output, and the states before tiles inside a chunk."""
    tiles = tl.cdiv(length, TILE)
    chunks = tl.cdiv(tiles, tiles_per_chunk)
    chunk, position, channel, mask = locate(chunks, GROUPS, CHANNELS)
    b = position[0]
    shift, skip = per_channel(bias, channel, mask), per_channel(D, channel, mask)
    width: tl.constexpr = GROUPS * CHANNELS
    last = tl.minimum((chunk + 1) * tiles_per_chunk, tiles) - 1
    for tile in range(chunk * tiles_per_chunk, last + 1):
        start = tile * TILE
        us = load(u, position, start, length, mask)
        dts = step_sizes(load(delta, position, start, length, mask), shift, start, length, SOFTPLUS)
        ys = ()
        for i in tl.static_range(TILE):
            ys = ys + (us[i] * skip,)
        for n in range(STATE):
            decay = per_channel(A, channel * STATE + n, mask) * LOG2_E
            Bs = load_shared(B, position, n, start, length)
            Cs = load_shared(C, position, n, start, length)
            state = states + ((b * (tiles - 1) + tile - 1) * STATE + n) * width + channel
            h = tl.load(state, mask=mask & (tile > 0), other=0.0)
            sums = ()
            for i in tl.static_range(TILE):
                h = tl.exp2(dts[i] * decay) * h + dts[i] * us[i] * pick(Bs, i)
                sums = sums + (ys[i] + h * pick(Cs, i),)
            ys = sums
            # The state that the next chunk starts from is there since phase 2.
            tl.store(state + STATE * width, h, mask=mask & (tile < last))
        store(y, ys, position, start, length, mask)
        tl.debug_barrier()  # the stores above, before the next tile's loads


@triton.jit(do_not_specialize=['length', 'tiles_per_chunk'])
def gradient_kernel(
    grad_y,
    u,
    delta,
    A,
    bias,
    B,
    C,
    D,
    states,
    adjoints,
    grad_u,
    grad_delta,
    parts,
    length,
    tiles_per_chunk,
    GROUPS: tl.constexpr,
    CHANNELS: tl.constexpr,
    STATE: tl.constexpr,
    SOFTPLUS: tl.constexpr,
):
    """Phase 3 of the backward pass, from the last tile of a chunk to the first."""
    tiles = tl.cdiv(length, TILE)
    chunks = tl.cdiv(tiles, tiles_per_chunk)
    chunk, position, channel, mask = locate(chunks, GROUPS, CHANNELS)
    parts_A, parts_B, parts_C, parts_D, parts_bias = parts
    b = position[0]
    BLOCKS: tl.constexpr = (CHANNELS + BLOCK - 1) // BLOCK
    block = (b * GROUPS + position[1]) * BLOCKS + position[2]
    shift, skip = per_channel(bias, channel, mask), per_channel(D, channel, mask)
    width: tl.constexpr = GROUPS * CHANNELS
    first = chunk * tiles_per_chunk
    last = tl.minimum(first + tiles_per_chunk, tiles) - 1
    total_D = tl.zeros((BLOCK,), tl.float32)
    total_bias = tl.zeros((BLOCK,), tl.float32)
    for k in range(last + 1 - first):
        tile = last - k
        start = tile * TILE
        us = load(u, position, start, length, mask)
        dys = load(grad_y, position, start, length, mask)
        dts = step_sizes(load(delta, position, start, length, mask), shift, start, length, SOFTPLUS)
        by_input = ()  # sum over n of g_t B_t
        by_decay = ()  # sum over n of q_t h_{t-1} A
        for i in tl.static_range(TILE):
            total_D += dys[i] * us[i]
            by_input = by_input + (tl.zeros((BLOCK,), tl.float32),)
            by_decay = by_decay + (tl.zeros((BLOCK,), tl.float32),)
        for n in range(STATE):
            rate = per_channel(A, channel * STATE + n, mask)
            Bs = load_shared(B, position, n, start, length)
            state = states + ((b * (tiles - 1) + tile - 1) * STATE + n) * width + channel
            h = tl.load(state, mask=mask & (tile > 0), other=0.0)
            decays = ()
            befores = ()
            products = ()
            for i in tl.static_range(TILE):
                decays = decays + (tl.exp2(dts[i] * (rate * LOG2_E)),)
                befores = befores + (h,)
                h = decays[i] * h + dts[i] * (us[i] * pick(Bs, i))
                products = products + (dys[i] * h,)
            shared = (block * STATE + n) * length
            store_lane_sums(parts_C + shared, products, start, length)

            # Read B again: kept from the loop above, it would take a register for each step.
            Bs = load_shared(B, position, n, start, length)
            Cs = load_shared(C, position, n, start, length)
            at = ((b * chunks + chunk) * STATE + n) * width + channel
            entered = mask & ((k > 0) | (chunk < chunks - 1))
            q = tl.load(adjoints + at, mask=entered, other=0.0)
            grad_A = tl.load(parts_A + at, mask=mask & (k > 0), other=0.0)
            products = ()
            inputs = ()
            throughs = ()
            for i in tl.static_range(TILE - 1, -1, -1):
                g = q + dys[i] * pick(Cs, i)
                q = decays[i] * g
                grad_A += q * befores[i] * dts[i]
                products = (dts[i] * (us[i] * g),) + products
                inputs = (by_input[i] + g * pick(Bs, i),) + inputs
                throughs = (by_decay[i] + q * befores[i] * rate,) + throughs
            by_input = inputs
            by_decay = throughs
            tl.store(adjoints + at, q, mask=mask & (tile > first))
            tl.store(parts_A + at, grad_A, mask=mask)
            store_lane_sums(parts_B + shared, products, start, length)
        grad_us = ()
        grad_deltas = ()
        for i in tl.static_range(TILE):
            grad_us = grad_us + (by_input[i] * dts[i] + dys[i] * skip,)
            grad_dt = by_input[i] * us[i] + by_decay[i]
            grad_deltas = grad_deltas + (grad_dt * slope(dts[i], SOFTPLUS),)
            total_bias += grad_deltas[i]
        store(grad_u, grad_us, position, start, length, mask)
        store(grad_delta, grad_deltas, position, start, length, mask)
        tl.debug_barrier()  # the stores above, before the next tile's loads
    at = (b * chunks + chunk) * width + channel
    tl.store(parts_D + at, total_D, mask=mask)
    tl.store(parts_bias + at, total_bias, mask=mask)
