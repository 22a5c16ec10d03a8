"""What the state space models of all Mambas here have in common (state-spaces/mamba)."""

import math

import torch
from torch import Tensor

EXPANSION = 2  # inner channels for each channel of a block


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
