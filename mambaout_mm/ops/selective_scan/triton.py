"""The selective scan on CUDA: launches of the kernels in ``triton_kernels.py``.

Triton compiles them on first use. Formulas, layouts and the three phases are in that file. The
forward pass keeps the state before each tile but the first.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .triton_kernels import (
    CARRY_CHANNELS,
    carry_kernel,
    end_kernel,
    gradient_kernel,
    output_kernel,
)
from .triton_tiles import BLOCK, TILE

# Chunks get longer, and phase 2 shorter, where there would be more programs than this: about three
# for each place on a large GPU, 130 multiprocessors with up to 32 such programs each.
PROGRAMS = 12288


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
        output_kernel[plan.grid(plan.chunks)](
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
        gradient_kernel[plan.grid(plan.chunks)](
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
        end_kernel[self.grid(self.chunks - 1)](
            x, weights, *steps, _strided(slots), totals, REVERSE=reverse, **self.arguments
        )
        columns = triton.cdiv(self.channels, CARRY_CHANNELS.value)
        carry_kernel[(self.batch * self.state * columns,)](
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
