"""The selective scan in blocks of PyTorch's vectorised operations, on any device.

It computes ``h_t = a_t h_{t-1} + dt_t B_t u_t`` with a = exp(dt A), and ``y_t = C_t h_t + D u_t``.

The sequence is cut into segments that fit a processor's cache, one after the other, and a segment
into chunks whose steps are taken side by side. Within a segment the recurrence is exact and has two
levels: run every chunk from zero to learn its last state, carry last states from chunk to chunk,
run every chunk again from its true first state. There is no division by accumulated decays, whose
error grows with the length of the sequence.

The backward pass recomputes a segment's states from the state before it. The adjoint g of the
states runs backwards through the same recurrence, ``g_t = C_t dy_t + a_{t+1} g_{t+1}``. Nothing of
size L * G * D * N is held; the forward pass keeps at most N / 64 times the size of u.

Inside a segment time comes first: arrays are (S, b, G, N or 1, D), D the channels of one group.
"""

import math

import torch
from torch import Tensor

# Elements in one buffer of a segment, and in one step of all its chunks: measured, see
# benchmarks/NOTES.md.
SEGMENT_ELEMENTS = 2**20
STEP_ELEMENTS = 2**14

SOFTPLUS_THRESHOLD = 20  # above it softplus is the identity, as torch's is by default


def states_shape(
    batch: int, groups: int, channels: int, length: int, state: int
) -> tuple[int, int]:
    """Shape of the states that the forward pass keeps: the state before each segment."""
    width = batch * groups * channels * state
    return -(-length // _segment_length(width)), width


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
    """Output (b, G, D, L) and the state before each segment, in float32 (float64 of float64)."""
    scan = _Segments(u, delta, A, B, C, delta_bias, delta_softplus)
    y = torch.empty_like(u, dtype=scan.dtype)
    y_time_first = scan.time_first(y)
    skip = None if D is None else scan.per_channel(D)
    starts = u.new_empty(states_shape(*u.shape, A.shape[1]), dtype=scan.dtype)
    h = torch.zeros_like(scan.states[0])  # (b, G, N, D)
    for i in range(len(starts)):
        starts[i] = h.flatten()
        scan.load(i)
        scan.run_states(h)
        h.copy_(scan.states[-1])
        if scan.state == 1:
            out = scan.states[1:].mul_(scan.C)
        else:
            out = scan.C.transpose(-1, -2) @ scan.states[1:]  # (S, b, G, 1, D)
        if skip is not None:
            out = out.addcmul_(skip, scan.u)
        y_time_first[scan.slice(i)] = out[: scan.length_of(i)]
    return y, starts


def backward(
    grad_out: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    starts: Tensor,
    delta_softplus: bool,
) -> tuple[Tensor | None, ...]:
    """Gradients of u, delta, A, B, C, D and delta_bias, each in its input's shape and dtype."""
    scan = _Segments(u, delta, A, B, C, delta_bias, delta_softplus)
    grads = [torch.empty_like(x) for x in (u, delta, B, C)]
    grad_u, grad_delta = (scan.time_first(x) for x in grads[:2])
    grad_B, grad_C = (scan.vectors_time_first(x) for x in grads[2:])
    source = scan.time_first(grad_out)
    skip = None if D is None else scan.per_channel(D)
    grad_A = torch.zeros_like(scan.A)  # (G, N, D)
    grad_D = grad_bias = torch.zeros_like(scan.A[:, :1])  # (G, 1, D)
    grad_y = scan.buffer(1)
    adjoint = scan.buffer(scan.state)  # g
    after = torch.zeros_like(adjoint[0])  # g of the next segment's first step
    for i in reversed(range(len(starts))):
        n, where = scan.length_of(i), scan.slice(i)
        scan.load(i)
        scan.run_states(starts[i].view_as(after))
        scan.fill(grad_y, source, i)
        torch.mul(grad_y, scan.C, out=adjoint)
        _scan(
            scan.decay[1:], adjoint, scan.chunk_decay(scan.dt[1:]), after, scan.chunks, reverse=True
        )
        after.copy_(adjoint[0])

        h, dt, x = scan.states, scan.dt[:-1], scan.u
        dt_x = dt * x
        if scan.state == 1:
            grad_B[where] = (adjoint * dt_x).sum(-1, keepdim=True)[:n]
            grad_C[where] = (grad_y * h[1:]).sum(-1, keepdim=True)[:n]
            through_input = adjoint * scan.B  # (S, b, G, 1, D)
        else:
            grad_B[where] = (adjoint @ dt_x.transpose(-1, -2))[:n]  # (S, b, G, N, 1)
            grad_C[where] = (h[1:] @ grad_y.transpose(-1, -2))[:n]
            through_input = scan.B.transpose(-1, -2) @ adjoint
        through_decay = h[:-1].mul_(scan.decay[:-1]).mul_(adjoint)  # dL/d(dt A)
        grad_A += torch.einsum('sbgnd,sbgnd->gnd', through_decay, dt.expand_as(through_decay))
        grad_dt = (through_decay.mul_(scan.A)).sum(3, keepdim=True).addcmul_(through_input, x)
        if delta_softplus:
            grad_dt.mul_(scan.softplus_slope(i))
        grad_x = through_input.mul_(dt)
        if skip is not None:
            grad_x.addcmul_(skip, grad_y)
            grad_D = grad_D + (grad_y * x).sum((0, 1))
        grad_bias = grad_bias + grad_dt[:n].sum((0, 1))
        grad_u[where] = grad_x[:n]
        grad_delta[where] = grad_dt[:n]
        scan.keep_first_decay()
    return (
        grads[0],
        grads[1],
        grad_A.transpose(1, 2).reshape(A.shape).to(A.dtype),
        grads[2],
        grads[3],
        None if D is None else grad_D.reshape(D.shape).to(D.dtype),
        None if delta_bias is None else grad_bias.reshape(delta_bias.shape).to(delta_bias.dtype),
    )


class _Segments:
    """The arrays of the segment that is loaded, in buffers that the next segment uses again.

    Rows past the end of the sequence have dt = 0 and u = 0, which leaves the state as it is.
    ``dt`` and ``decay`` have one row more, the first row of the next segment. ``states`` has one
    row before, the state that the segment starts from.
    """

    def __init__(
        self,
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        delta_bias: Tensor | None,
        delta_softplus: bool,
    ) -> None:
        self.batch, self.groups, self.channels, self.length = u.shape
        self.state = A.shape[1]
        self.dtype = torch.float64 if u.dtype == torch.float64 else torch.float32
        self.device = u.device
        self.A = A.to(self.dtype).unflatten(0, (self.groups, -1)).transpose(1, 2).contiguous()
        self.bias = None if delta_bias is None else self.per_channel(delta_bias)
        self.softplus = delta_softplus
        self.sources = (
            self.time_first(u),
            self.time_first(delta),
            self.vectors_time_first(B),
            self.vectors_time_first(C),
        )
        width = self.batch * self.groups * self.channels * self.state
        self.segment_length = _segment_length(width)
        longest = min(self.segment_length, self.length)
        self.chunks = _chunks(longest, width)
        self.rows = self.chunks * -(-longest // self.chunks)
        self.u = self.buffer(1)
        self.B, self.C = (self.u.new_empty(*self.u.shape[:3], self.state, 1) for _ in range(2))
        self.dt = self.buffer(1, extra=1)
        self.decay = self.buffer(self.state, extra=1)
        self.states = self.buffer(self.state, extra=1)
        self.dt[-1], self.decay[-1] = 0, 1  # after the last segment

    def buffer(self, state: int, extra: int = 0) -> Tensor:
        """Room for one segment, (S + extra, b, G, state, D)."""
        shape = (self.rows + extra, self.batch, self.groups, state, self.channels)
        return torch.empty(shape, dtype=self.dtype, device=self.device)

    def time_first(self, x: Tensor) -> Tensor:
        """View of (b, G, D, L) as (L, b, G, 1, D)."""
        return x.permute(3, 0, 1, 2)[:, :, :, None]

    def vectors_time_first(self, x: Tensor) -> Tensor:
        """View of (b, G, N, L) as (L, b, G, N, 1)."""
        return x.permute(3, 0, 1, 2)[..., None]

    def per_channel(self, x: Tensor) -> Tensor:
        """(G * D,) as (G, 1, D)."""
        return x.to(self.dtype).view(self.groups, 1, -1)

    def slice(self, i: int) -> slice:
        """Where segment ``i`` lies in the sequence."""
        return slice(i * self.segment_length, min((i + 1) * self.segment_length, self.length))

    def length_of(self, i: int) -> int:
        return min(self.segment_length, self.length - i * self.segment_length)

    def fill(self, buffer: Tensor, source: Tensor, i: int) -> None:
        """Copy segment ``i`` of a time-first array into a buffer."""
        n = self.length_of(i)
        buffer[:n] = source[self.slice(i)]
        buffer[n : self.rows].zero_()

    def load(self, i: int) -> None:
        """Read segment ``i``: ``u``, ``B``, ``C``, ``dt`` and ``decay``."""
        for buffer, source in zip((self.u, self.dt, self.B, self.C), self.sources, strict=True):
            self.fill(buffer, source, i)
        n = self.length_of(i)
        dt = self.dt[:n]
        if self.bias is not None:
            dt.add_(self.bias)
        if self.softplus:
            _softplus_(dt)
        torch.mul(self.dt[:-1], self.A, out=self.decay[:-1])
        self.decay[:-1].exp_()

    def keep_first_decay(self) -> None:
        """Put this segment's first row after the last row of the segment to be loaded next."""
        self.dt[-1] = self.dt[0]
        self.decay[-1] = self.decay[0]

    def chunk_decay(self, dt: Tensor) -> Tensor:
        """Decay over each chunk, (K, b, G, N, D)."""
        return torch.exp(dt.unflatten(0, (self.chunks, -1)).sum(1) * self.A)

    def run_states(self, start: Tensor) -> None:
        """Compute ``states`` of the loaded segment from the state before it."""
        self.states[0] = start
        inputs = self.states[1:]
        if self.state == 1:
            torch.mul(self.u, self.B, out=inputs)
            inputs.mul_(self.dt[:-1])
        else:
            torch.mul(self.dt[:-1] * self.u, self.B, out=inputs)
        _scan(self.decay[:-1], inputs, self.chunk_decay(self.dt[:-1]), start, self.chunks)

    def softplus_slope(self, i: int) -> Tensor:
        """d softplus(x) / dx at the step sizes of segment ``i``."""
        x = torch.empty_like(self.u)
        self.fill(x, self.sources[1], i)
        if self.bias is not None:
            x.add_(self.bias)
        above = x > SOFTPLUS_THRESHOLD
        return x.sigmoid_().masked_fill_(above, 1)


def _scan(
    decay: Tensor,
    values: Tensor,
    chunk_decay: Tensor,
    start: Tensor,
    chunks: int,
    reverse: bool = False,
) -> None:
    """In place, ``values[t] += decay[t] * values[t - 1]``, with ``start`` before the first row.

    Args:
        decay, values (Tensor): (S, ...), of equal shape.
        chunk_decay (Tensor): Product of the decays in each chunk, (chunks, ...).
        start (Tensor): (...).
        chunks (int): How many chunks of S / chunks rows are run side by side.
        reverse (bool): From the last row to the first: ``t + 1`` in place of ``t - 1``.
            Defaults to False.
    """
    decays, rows = (x.unflatten(0, (chunks, -1)).flatten(2).unbind(1) for x in (decay, values))
    steps = list(zip(decays, rows, strict=True))  # S / chunks pairs of (chunks, ...)
    order = range(chunks)
    if reverse:
        steps, order = steps[::-1], reversed(order)
    state = start.reshape(1, -1)
    if chunks > 1:
        last = steps[0][1].clone()
        for decay_t, value_t in steps[1:]:
            torch.addcmul(value_t, decay_t, last, out=last)
        starts = torch.empty_like(last)
        carry, chunk_decay = state[0], chunk_decay.flatten(1)
        for k in order:
            starts[k] = carry
            carry = torch.addcmul(last[k], chunk_decay[k], carry)
        state = starts
    for decay_t, value_t in steps:
        state = value_t.addcmul_(decay_t, state)


def _softplus_(x: Tensor) -> None:
    """In place log(1 + exp(x)), the identity above 20.

    PyTorch's softplus takes four times as long, because its log1p is not vectorised. The last term
    restores the digits that w = 1 + e loses by rounding.
    """
    e = x.clamp(max=SOFTPLUS_THRESHOLD).exp_()
    w = e + 1
    lost = e.sub_(w - 1).div_(w)
    torch.maximum(w.log_().add_(lost), x, out=x)


def _segment_length(width: int) -> int:
    """Steps in a segment: 64 at least, since the state before it is kept for the backward pass."""
    return max(64, SEGMENT_ELEMENTS // width)


def _chunks(length: int, width: int) -> int:
    """Chunks in a segment: 1 where a step is wide already.

    Two levels cost twice the arithmetic and save Python steps.
    """
    chunks = min(math.isqrt(length), STEP_ELEMENTS // width)
    return chunks if chunks >= 4 else 1
