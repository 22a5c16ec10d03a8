"""What the state space models of all Mambas here share (state-spaces/mamba), and Vim's mixer."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mambaout_mm.ops.causal_conv import causal_conv_silu
from mambaout_mm.ops.selective_scan import selective_scan

EXPANSION = 2  # inner channels for each channel of a block
CONV_WIDTH = 4


def init_steps(weight: Tensor, bias: Tensor) -> None:
    """Mamba's step sizes, .001 to .1 and log-uniform, in place.

    Args:
        weight (Tensor): Of the projection from R numbers to steps, (..., R).
        bias (Tensor): Its bias; softplus of it is a step.
    """
    with torch.no_grad():
        rank = weight.shape[-1]
        weight.uniform_(-(rank**-0.5), rank**-0.5)
        dt = bias.uniform_(math.log(1e-3), math.log(1e-1)).exp_().clamp_(min=1e-4)
        dt.add_(torch.log(-torch.expm1(-dt)))  # inverse of softplus


def init_decays(A_log: Tensor) -> None:
    """Mamba's decays: -1 to -N for the N states of each channel, in place."""
    with torch.no_grad():
        states = torch.arange(1, A_log.shape[1] + 1, dtype=torch.float32, device=A_log.device)
        A_log.copy_(states.log())


def decays(A_log: Tensor) -> Tensor:
    """A of the scan, in at least float32."""
    return -torch.exp(A_log.to(torch.promote_types(A_log.dtype, torch.float32)))


def selective_ssm(
    x: Tensor, x_proj: Tensor, dt_proj: Tensor, dt_bias: Tensor, A_log: Tensor, D: Tensor
) -> Tensor:
    """Selective scan of sequences, whose step sizes, B and C are computed from the sequences.

    Args:
        x (Tensor): (N, G, L, E), for each of G directions a sequence.
        x_proj (Tensor): (G, R + 2 d_state, E); gives R numbers for the step sizes, B and C.
        dt_proj (Tensor): (G, E, R).
        dt_bias, D (Tensor): (G * E,) each.
        A_log (Tensor): (G * E, d_state).

    Returns:
        Tensor: (N, G, L, E), float32 as the scan's results are (float64 of float64).
    """
    d_state = A_log.shape[1]
    parameters = x @ x_proj.transpose(1, 2)  # (N, G, L, R + 2 d_state)
    dt, B, C = parameters.split((dt_proj.shape[2], d_state, d_state), dim=-1)
    dt = dt @ dt_proj.transpose(1, 2)  # (N, G, L, E)
    y = selective_scan(
        x.transpose(2, 3),
        dt.transpose(2, 3),
        decays(A_log),
        B.transpose(2, 3),
        C.transpose(2, 3),
        D,
        dt_bias,
    )  # (N, G, E, L)
    return y.transpose(2, 3)


class DirectionNames(NamedTuple):
    """What a mixer calls the parameters of one direction."""

    conv1d: str
    x_proj: str
    dt_proj: str
    A_log: str
    D: str


class MambaMixer(nn.Module):
    """A Mamba for each of G orders of the tokens, between a shared input and output projection.

    Project to E = 2 dim channels and as many for a gate; in each order convolve causally and scan,
    with parameters of its own; :meth:`mix` puts the results together. A family provides it.

    Args:
        dim (int): Channels.
        d_state (int): Size N of a channel's state.
        names (Sequence[DirectionNames]): Of the parameters of each direction.
    """

    def __init__(self, dim: int, d_state: int, names: Sequence[DirectionNames]) -> None:
        super().__init__()
        inner = EXPANSION * dim
        rank = math.ceil(dim / 16)
        self.names = tuple(names)
        self.in_proj = nn.Linear(dim, 2 * inner, bias=False)
        self.out_proj = nn.Linear(inner, dim, bias=False)
        for direction in self.names:
            conv = nn.Conv1d(inner, inner, CONV_WIDTH, padding=CONV_WIDTH - 1, groups=inner)
            dt_proj = nn.Linear(rank, inner)
            A_log = nn.Parameter(torch.empty(inner, d_state))
            init_steps(dt_proj.weight, dt_proj.bias)
            init_decays(A_log)
            self.add_module(direction.conv1d, conv)
            self.add_module(direction.x_proj, nn.Linear(inner, rank + 2 * d_state, False))
            self.add_module(direction.dt_proj, dt_proj)
            self.register_parameter(direction.A_log, A_log)
            self.register_parameter(direction.D, nn.Parameter(torch.ones(inner)))

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        """Mix tokens (N, L, dim), those of a map of that height and width row by row."""
        x, z = self.in_proj(tokens).chunk(2, dim=-1)  # (N, L, E)
        return self.out_proj(self.mix(x, F.silu(z), size))

    def mix(self, x: Tensor, gate: Tensor, size: tuple[int, int]) -> Tensor:
        """What all directions give together, of ``x`` and gate, all (N, L, E)."""
        raise NotImplementedError

    def scan(self, x: Tensor) -> Tensor:
        """Convolution, SiLU and scan along each sequence.

        Args:
            x (Tensor): A sequence for each direction, (N, G, L, E).

        Returns:
            Tensor: Of the same shape, float32 as the scan's results are.
        """
        conv1d, x_proj, dt_proj, A_log, D = (
            [getattr(self, name) for name in names] for names in zip(*self.names, strict=True)
        )  # G of each
        x = causal_conv_silu(
            x,
            torch.cat([conv.weight for conv in conv1d]),
            torch.cat([conv.bias for conv in conv1d]),
        )
        return selective_ssm(
            x,
            torch.stack([p.weight for p in x_proj]),
            torch.stack([p.weight for p in dt_proj]),
            torch.cat([p.bias for p in dt_proj]),
            torch.cat(A_log),
            torch.cat(D),
        )
