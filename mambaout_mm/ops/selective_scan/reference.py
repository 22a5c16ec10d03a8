"""The selective scan as it is defined: one step after the other."""

import torch
import torch.nn.functional as F
from torch import Tensor


def selective_scan_reference(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = True,
) -> Tensor:
    """Plain recurrence of :func:`mambaout_mm.ops.selective_scan.selective_scan`, by autograd.

    Computes and returns float64 where ``u`` is float64, else float32. For checking: a Python step
    for every element of the sequence, and every state in memory.
    """
    dtype = torch.float64 if u.dtype == torch.float64 else torch.float32
    shape, groups = u.shape, B.shape[1]
    u, delta = (x.flatten(1, -2) for x in (u, delta))  # (b, G * D, L)
    x, dt = u.to(dtype), delta.to(dtype)
    if delta_bias is not None:
        dt = dt + delta_bias.to(dtype)[:, None]
    if delta_softplus:
        dt = F.softplus(dt)  # the identity above 20, as everywhere in the Mamba family
    # Time first: (L, b, G, D, N) with D the channels of one group
    dt, inputs = (v.unflatten(1, (groups, -1)).permute(3, 0, 1, 2)[..., None] for v in (dt, x))
    B, C = (v.to(dtype).permute(3, 0, 1, 2)[:, :, :, None] for v in (B, C))
    decay = torch.exp(dt * A.to(dtype).unflatten(0, (groups, -1)))
    inputs = dt * inputs * B
    h = torch.zeros_like(inputs[0])
    states = []
    for decay_t, input_t in zip(decay.unbind(), inputs.unbind(), strict=True):
        h = decay_t * h + input_t
        states.append(h)
    y = (torch.stack(states) * C).sum(-1)  # (L, b, G, D)
    y = y.permute(1, 2, 3, 0).flatten(1, 2)  # (b, G * D, L)
    if D is not None:
        y = y + D.to(dtype)[:, None] * x
    return y.reshape(shape)
