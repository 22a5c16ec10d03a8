"""The selective scan on CUDA, with kernels that Triton compiles on first use.

With a_t = exp(dt_t A) and b_t = dt_t B_t u_t, a chunk of the recurrence ``h_t = a_t h_{t-1} + b_t``
maps the state before it to its last, ``h_end = exp(A * sum dt) h_start + E``; E is the last state
if it starts from zero. So the sequence is cut into chunks that run side by side, in three phases:

1. every chunk but the last: E, for each channel and state, and ``sum dt``, for each channel;
2. the state at the start of every chunk, from one chunk to the next;
3. every chunk again, from its start: y.

The adjoint ``g_t = C_t dy_t + a_{t+1} g_{t+1}`` runs through the same recurrence against time. In
terms of q_t = a_t g_t, what a step hands to the step before it, ``q_t = a_t (q_{t+1} + C_t dy_t)``.
The same phases, with dy and C in place of u and B, end in the gradients::

    grad_A = sum over t of q_t h_{t-1} dt_t         grad_B_t = sum over d of g_t dt_t u_t
    grad_dt = sum over n of g_t B_t u_t + q_t h_{t-1} A
    grad_u = sum over n of g_t B_t dt_t, + D dy_t   grad_C_t = sum over d of dy_t h_t

Nothing is divided by an accumulated decay, and a_t h_{t-1} is never taken as h_t - b_t, which
cancels where a step is long.

Phases 1 and 3 give each channel to one lane of a warp. A lane holds a tile of 16 steps in registers
and runs them one after the other, for one of the N states at a time, so lanes exchange little but
the sums over channels. From tile to tile a state waits in memory. What the forward pass saves is
the state before each tile but the first. No atomics: the same input gives the same bits.
"""

# ruff: noqa: ANN001, ANN202, RUF005 -- kernels: Triton's arguments, tuples joined with +
import torch
import triton
import triton.language as tl
from torch import Tensor

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

# Chunks get longer, and phase 2 shorter, where there would be more programs than this: about three
# for each place on a large GPU, 130 multiprocessors with up to 32 such programs each.
PROGRAMS = 12288
# Phase 2 reads chunks in tiles: rows in registers, parts and channels in lanes.
CARRY_ROWS, CARRY_PARTS, CARRY_CHANNELS = tl.constexpr(32), tl.constexpr(8), tl.constexpr(4)


def states_shape(
    batch: int, groups: int, channels: int, length: int, state: int
) -> tuple[int, int, int, int]:
    """Shape of what the forward pass keeps: the state before each tile but the first."""
    return batch, (length + TILE.value - 1) // TILE.value - 1, state, groups * channels


def forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
) -> tuple[Tensor, Tensor]:
    """Output (b, G, D, L) and the state before each tile but the first, both in float32."""
    plan = _Plan(u, A, delta_softplus)
    y = torch.empty_like(u, dtype=torch.float32)
    states = u.new_empty(states_shape(*u.shape, plan.state), dtype=torch.float32)
    starts = states[:, plan.tiles_per_chunk - 1 :: plan.tiles_per_chunk]
    x, steps = _series(u), (_series(delta), _dense(A), _dense(delta_bias))
    with torch.cuda.device_of(u):
        plan.enter_chunks(x, _strided(B), steps, starts, reverse=False)
        _output_kernel[plan.grid(plan.chunks)](
            x, *steps, _strided(B), _strided(C), _dense(D), _series(y), states, **plan.arguments
        )
    return y, states


def backward(
    grad_out: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    states: Tensor,
    delta_softplus: bool,
) -> tuple[Tensor | None, ...]:
    """Gradients of u, delta, A, B, C, D and delta_bias, each in its input's shape and dtype."""
    plan = _Plan(u, A, delta_softplus)
    batch, groups, _, length = u.shape
    grad_u, grad_delta = torch.empty_like(u), torch.empty_like(delta)
    # Sums of single programs: over the channels of a block, or over the steps of a chunk.
    shared = (2, batch, groups, plan.blocks, plan.state, length)
    parts_B, parts_C = u.new_empty(shared, dtype=torch.float32)
    by_state = (2, batch, plan.chunks, plan.state, plan.channels)
    parts_A, adjoints = u.new_empty(by_state, dtype=torch.float32)
    by_channel = (2, batch, plan.chunks, plan.channels)
    parts_D, parts_bias = u.new_empty(by_channel, dtype=torch.float32)
    grad_y, steps = _series(grad_out), (_series(delta), _dense(A), _dense(delta_bias))
    with torch.cuda.device_of(u):
        plan.enter_chunks(grad_y, _strided(C), steps, adjoints[:, :-1], reverse=True)
        _gradient_kernel[plan.grid(plan.chunks)](
            grad_y,
            _series(u),
            *steps,
            _strided(B),
            _strided(C),
            _dense(D),
            states,
            adjoints,
            _series(grad_u),
            _series(grad_delta),
            (parts_A, parts_B, parts_C, parts_D, parts_bias),
            # Left to itself, ptxas stops at 128 for sm_80 and spills.
            maxnreg=168 if plan.state == 1 else 255,
            **plan.arguments,
        )
    return (
        grad_u,
        grad_delta,
        A.new_empty(A.shape).copy_(parts_A.sum((0, 1)).t()),
        torch.empty_like(B).copy_(parts_B.sum(2)),
        torch.empty_like(C).copy_(parts_C.sum(2)),
        None if D is None else parts_D.sum((0, 1)).to(D.dtype),
        None if delta_bias is None else parts_bias.sum((0, 1)).to(delta_bias.dtype),
    )


class _Plan:
    """How the work of one call is cut."""

    def __init__(self, u: Tensor, A: Tensor, softplus: bool) -> None:
        self.batch, self.groups, channels, length = u.shape
        self.channels, self.state = A.shape
        self.blocks = triton.cdiv(channels, BLOCK.value)
        tiles = triton.cdiv(length, TILE.value)
        self.tiles_per_chunk = triton.cdiv(*self.grid(tiles), PROGRAMS)
        self.chunks = triton.cdiv(tiles, self.tiles_per_chunk)
        self.arguments = dict(
            length=length,
            tiles_per_chunk=self.tiles_per_chunk,
            GROUPS=self.groups,
            CHANNELS=channels,
            STATE=self.state,
            SOFTPLUS=softplus,
            num_warps=1,
        )

    def grid(self, chunks: int) -> tuple[int]:
        return (self.batch * chunks * self.groups * self.blocks,)

    def enter_chunks(
        self, x: tuple, weights: tuple, steps: tuple, slots: Tensor, reverse: bool
    ) -> None:
        """Phases 1 and 2: fill ``slots``, (b, chunks - 1, N, G * D).

        They get the state at the start of each chunk but the first, from u and B; in ``reverse``
        the adjoint q that enters each chunk but the last, from dy and C.
        """
        if self.chunks == 1:
            return
        totals = slots.new_empty(self.batch, self.chunks - 1, self.channels)
        _end_kernel[self.grid(self.chunks - 1)](
            x, weights, *steps, _strided(slots), totals, REVERSE=reverse, **self.arguments
        )
        columns = triton.cdiv(self.channels, CARRY_CHANNELS.value)
        _carry_kernel[(self.batch * self.state * columns,)](
            _strided(slots),
            totals,
            steps[1],
            self.chunks - 1,
            self.channels,
            self.state,
            first=self.chunks - 2 if reverse else 0,
            direction=-1 if reverse else 1,
            num_warps=1,
        )


def _series(x: Tensor) -> tuple:
    """(b, G, D, L) for a kernel: data, strides and whether steps lie side by side.

    The stride between steps is compiled in: a constant for a model, whatever the image's size.
    """
    *strides, step = x.stride()
    side_by_side = step == 1 and 1 < strides[-1] < 2**25  # offsets in a tile are 32-bit there
    return x, *strides, tl.constexpr(step), tl.constexpr(side_by_side)


def _strided(x: Tensor) -> tuple:
    return x, *x.stride()


def _dense(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.contiguous()


@triton.jit(do_not_specialize=['length', 'tiles_per_chunk'])
def _end_kernel(
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
    slot, place, channel, mask = locate(count, GROUPS, CHANNELS)
    shift = per_channel(bias, channel, mask)
    first = (slot + 1 if REVERSE else slot) * tiles_per_chunk
    last = tl.minimum(first + tiles_per_chunk, tiles) - 1
    slots_b = slots[0] + place[0] * slots[1] + slot.to(tl.int64) * slots[2] + channel
    total = tl.zeros((BLOCK,), tl.float32)
    for k in range(last + 1 - first):
        start = (last - k if REVERSE else first + k) * TILE
        xs = load(x, place, start, length, mask)
        dts = step_sizes(load(delta, place, start, length, mask), shift, start, length, SOFTPLUS)
        for i in tl.static_range(TILE):
            total += dts[i]
        for n in range(STATE):
            decay = per_channel(A, channel * STATE + n, mask) * LOG2_E
            ws = load_shared(weights, place, n, start, length)
            h = tl.load(slots_b + n * slots[3], mask=mask & (k > 0), other=0.0)
            if REVERSE:
                for i in tl.static_range(TILE - 1, -1, -1):
                    h = tl.exp2(dts[i] * decay) * (h + xs[i] * pick(ws, i))
            else:
                for i in tl.static_range(TILE):
                    h = tl.exp2(dts[i] * decay) * h + dts[i] * xs[i] * pick(ws, i)
            tl.store(slots_b + n * slots[3], h, mask=mask)
        tl.debug_barrier()  # the stores above, before the next tile's loads
    tl.store(totals + (place[0] * count + slot) * GROUPS * CHANNELS + channel, total, mask=mask)


@triton.jit(do_not_specialize=['count', 'channels', 'state', 'first', 'direction'])
def _carry_kernel(slots, totals, A, count, channels, state, first, direction):
    """Phase 2, in place: from the ends of chunks that start from zero to what enters the next.

    A program takes one state of a few channels along all chunks. Chunk after chunk would wait for
    memory most of the time; so it reads CARRY_ROWS * CARRY_PARTS chunks at once and does in
    registers what the phases do in memory: each part from zero, the carry over parts, each again.
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
def _output_kernel(
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
    chunk, place, channel, mask = locate(chunks, GROUPS, CHANNELS)
    b = place[0]
    shift, skip = per_channel(bias, channel, mask), per_channel(D, channel, mask)
    width: tl.constexpr = GROUPS * CHANNELS
    last = tl.minimum((chunk + 1) * tiles_per_chunk, tiles) - 1
    for tile in range(chunk * tiles_per_chunk, last + 1):
        start = tile * TILE
        us = load(u, place, start, length, mask)
        dts = step_sizes(load(delta, place, start, length, mask), shift, start, length, SOFTPLUS)
        ys = ()
        for i in tl.static_range(TILE):
            ys = ys + (us[i] * skip,)
        for n in range(STATE):
            decay = per_channel(A, channel * STATE + n, mask) * LOG2_E
            Bs = load_shared(B, place, n, start, length)
            Cs = load_shared(C, place, n, start, length)
            state = states + ((b * (tiles - 1) + tile - 1) * STATE + n) * width + channel
            h = tl.load(state, mask=mask & (tile > 0), other=0.0)
            sums = ()
            for i in tl.static_range(TILE):
                h = tl.exp2(dts[i] * decay) * h + dts[i] * us[i] * pick(Bs, i)
                sums = sums + (ys[i] + h * pick(Cs, i),)
            ys = sums
            # What the next chunk starts from is there since phase 2.
            tl.store(state + STATE * width, h, mask=mask & (tile < last))
        store(y, ys, place, start, length, mask)
        tl.debug_barrier()  # the stores above, before the next tile's loads


@triton.jit(do_not_specialize=['length', 'tiles_per_chunk'])
def _gradient_kernel(
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
    chunk, place, channel, mask = locate(chunks, GROUPS, CHANNELS)
    parts_A, parts_B, parts_C, parts_D, parts_bias = parts
    b = place[0]
    BLOCKS: tl.constexpr = (CHANNELS + BLOCK - 1) // BLOCK
    block = (b * GROUPS + place[1]) * BLOCKS + place[2]
    shift, skip = per_channel(bias, channel, mask), per_channel(D, channel, mask)
    width: tl.constexpr = GROUPS * CHANNELS
    first = chunk * tiles_per_chunk
    last = tl.minimum(first + tiles_per_chunk, tiles) - 1
    total_D = tl.zeros((BLOCK,), tl.float32)
    total_bias = tl.zeros((BLOCK,), tl.float32)
    for k in range(last + 1 - first):
        tile = last - k
        start = tile * TILE
        us = load(u, place, start, length, mask)
        dys = load(grad_y, place, start, length, mask)
        dts = step_sizes(load(delta, place, start, length, mask), shift, start, length, SOFTPLUS)
        by_input = ()  # sum over n of g_t B_t
        by_decay = ()  # sum over n of q_t h_{t-1} A
        for i in tl.static_range(TILE):
            total_D += dys[i] * us[i]
            by_input = by_input + (tl.zeros((BLOCK,), tl.float32),)
            by_decay = by_decay + (tl.zeros((BLOCK,), tl.float32),)
        for n in range(STATE):
            rate = per_channel(A, channel * STATE + n, mask)
            Bs = load_shared(B, place, n, start, length)
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

            # Read again: what both loops need of B would be held in a register for each step.
            Bs = load_shared(B, place, n, start, length)
            Cs = load_shared(C, place, n, start, length)
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
        store(grad_u, grad_us, place, start, length, mask)
        store(grad_delta, grad_deltas, place, start, length, mask)
        tl.debug_barrier()  # the stores above, before the next tile's loads
    at = (b * chunks + chunk) * width + channel
    tl.store(parts_D + at, total_D, mask=mask)
    tl.store(parts_bias + at, total_bias, mask=mask)
