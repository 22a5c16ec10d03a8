"""The selective scan in C, on a CPU: ``scan_forward.c`` and ``scan_backward.c``.

u and delta are read and written as they lie in memory, in float32 or bfloat16; arithmetic is
float32. What is small beside them is converted first. Work is cut by the shape alone, so that
results do not depend on the number of threads.
"""

import ctypes
from typing import NamedTuple

import torch
from torch import Tensor

from ..native import DTYPES, in_huge_pages, kernels
from ..native.arguments import fields

SEGMENT = 64  # steps of a segment: SEGMENT of scan.h
SLABS = (96, 64, 32, 16)  # channels that a task may have; at most SLAB of scan.h
TASKS = 8  # enough for narrower slabs not to be needed
FEW_TASKS = 4  # fewer slabs than that are cut into chunks as well, which costs a second pass


def states_shape(
    batch: int, groups: int, channels: int, length: int, state: int
) -> tuple[int, int, int, int, int]:
    """Shape of the states that the forward pass keeps: the state before each segment."""
    return -(-length // SEGMENT), batch, groups, state, channels


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
    """Output (b, G, D, L) and the state before each segment, in float32."""
    call = _Call(u, delta, A, B, C, D, delta_bias, delta_softplus)
    y = in_huge_pages(torch.empty_like(u, dtype=torch.float32))
    starts = u.new_empty(states_shape(*u.shape, A.shape[1]), dtype=torch.float32)
    call.run('selective_scan_forward', y=y, starts=starts)
    return y, starts


def backward(
    grad_y: Tensor,
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
    call = _Call(u, delta, A, B, C, D, delta_bias, delta_softplus)
    batch, groups, channels, length = u.shape
    state = A.shape[1]
    per_state = (call.cut.chunks, batch, groups, state, channels)
    grad_A = u.new_empty(per_state, dtype=torch.float32)
    grad_D, grad_bias = (
        None if x is None else grad_A.new_empty(call.cut.chunks, batch, x.numel())
        for x in (D, delta_bias)
    )
    grads = [in_huge_pages(torch.empty_like(as_read(x))) for x in (u, delta, B, C)]
    parts_B, parts_C = grad_A.new_empty(2, call.cut.slabs, batch, groups, state, length)
    call.run(
        'selective_scan_backward',
        grad_y=grad_y.float(),
        starts=starts,
        adjoints=torch.empty_like(grad_A),
        grad_u=grads[0],
        grad_delta=grads[1],
        grad_B=grads[2],
        grad_C=grads[3],
        grad_A=grad_A,
        grad_skip=grad_D,
        grad_bias=grad_bias,
        parts_B=parts_B,
        parts_C=parts_C,
    )
    grad_u, grad_delta, grad_B, grad_C = (
        x.to(like.dtype) for x, like in zip(grads, (u, delta, B, C), strict=True)
    )
    return (
        grad_u,
        grad_delta,
        grad_A.sum((0, 1)).transpose(1, 2).reshape(A.shape).to(A.dtype),
        grad_B,
        grad_C,
        None if D is None else grad_D.sum((0, 1)).to(D.dtype),
        None if delta_bias is None else grad_bias.sum((0, 1)).to(delta_bias.dtype),
    )


class _Series(ctypes.Structure):
    """``struct series`` of scan.h."""

    _fields_ = fields('data', 'batch group channel time dtype')


class _Scan(ctypes.Structure):
    """``struct scan`` of scan.h."""

    _fields_ = (
        *fields('', 'batches groups channels length states'),
        *fields('', 'segment slab slabs chunk chunks softplus threads'),
        *((name, _Series) for name in ('u', 'delta', 'B', 'C')),
        *fields('A skip bias starts steps', ''),
        ('y', _Series),
        *((name, _Series) for name in ('grad_y', 'grad_u', 'grad_delta', 'grad_B', 'grad_C')),
        *fields('adjoints grad_A grad_skip grad_bias parts_B parts_C', ''),
    )


class _Cut(NamedTuple):
    """How the work is cut into tasks, see scan.h."""

    slab: int
    slabs: int
    chunk: int
    chunks: int


def _cut(batch: int, groups: int, channels: int, length: int) -> _Cut:
    for slab in SLABS:
        slabs = -(-channels // slab)
        if batch * groups * slabs >= TASKS:
            break
    slab = SLABS[-1] * -(-channels // (SLABS[-1] * slabs))
    segments = -(-length // SEGMENT)
    chunk = segments
    if batch * groups * slabs < FEW_TASKS:
        chunk = max(1, -(-segments * batch * groups * slabs // TASKS))
    return _Cut(slab, slabs, chunk, -(-segments // chunk))


class _Call:
    """Arguments of the kernels, and the tensors whose memory they point to."""

    def __init__(
        self,
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        delta_bias: Tensor | None,
        delta_softplus: bool,
    ) -> None:
        batch, groups, channels, length = u.shape
        self.cut = _cut(*u.shape)
        self.arguments = _Scan(
            batch,
            groups,
            channels,
            length,
            A.shape[1],
            SEGMENT,
            *self.cut,
            delta_softplus,
            torch.get_num_threads(),
        )
        self.tensors = []
        self.set(
            u=u,
            delta=as_read(delta),
            A=A.float().unflatten(0, (groups, channels)).transpose(1, 2).contiguous(),
            B=B.float(),
            C=C.float(),
            skip=None if D is None else D.float().contiguous(),
            bias=None if delta_bias is None else delta_bias.float().contiguous(),
            steps=u.new_empty(self.cut.chunks, *u.shape[:3], dtype=torch.float32),
        )

    def set(self, **tensors: Tensor | None) -> None:
        """Give tensors to the kernels by their names in scan.h."""
        for name, x in tensors.items():
            self.tensors.append(x)
            if x is None:
                continue
            is_series = isinstance(getattr(self.arguments, name), _Series)
            series = _Series(x.data_ptr(), *x.stride(), DTYPES[x.dtype]) if is_series else None
            setattr(self.arguments, name, series or x.data_ptr())

    def run(self, kernel: str, **tensors: Tensor | None) -> None:
        """Call a kernel with more tensors."""
        self.set(**tensors)
        if getattr(kernels(), kernel)(ctypes.byref(self.arguments)):
            raise RuntimeError(f'selective_scan: {kernel} was compiled for other sizes of tasks')


def as_read(x: Tensor) -> Tensor:
    """``x`` in a dtype that the kernels read, in the same memory layout."""
    return x if x.dtype in DTYPES else x.float()
