"""Inputs of the selective scan, and its results with gradients."""

import torch

NAMES = ('u', 'delta', 'A', 'B', 'C', 'D', 'delta_bias')


def relative_error(value, expected):
    return ((value - expected).abs().max() / expected.abs().max()).item()


def random_inputs(batch, groups, channels, state, length, dtype=torch.float64, seed=0):
    """u, delta, A, B, C, D and delta_bias of steps between about 0.05 and 2."""
    torch.manual_seed(seed)
    width = groups * channels
    inputs = (
        torch.randn(batch, width, length),
        torch.randn(batch, width, length),
        -0.1 - 2 * torch.rand(width, state),
        torch.randn(batch, groups, state, length),
        torch.randn(batch, groups, state, length),
        torch.randn(width),
        torch.randn(width) - 1,
    )
    return [x.to(dtype) for x in inputs]


def with_gradients(scan, inputs, cotangent, **kwargs):
    leaves = [None if x is None else x.detach().requires_grad_() for x in inputs]
    y = scan(*leaves, **kwargs)
    given = [x for x in leaves if x is not None]
    return y.detach(), torch.autograd.grad(y, given, cotangent)
