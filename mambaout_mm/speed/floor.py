"""The least time that a case can take on a machine."""

import torch

from mambaout_mm.backbones import MambaOut

from .cases import DTYPES, Case


def floor_seconds(arch: str, case: Case, macs: int, rates: dict[str, float]) -> float:
    """Seconds that no implementation can go below: of the arithmetic or of the bytes to move.

    The larger of two times: the arithmetic at the measured rate of matrix products, and the bytes
    at the measured rate of copies. Bytes of a block are those that no fusion around the matrix
    products avoids, in units of its width C for each pixel: forward 23 (norm 2, fc1 6.33, gate 8,
    fc2 3.67, residual 3), backward 39.3 (norm 3, fc1 12.67, gate 13.33, fc2 7.33, residual 3), both
    for h = 8/3 C. Stem and downsampling read their input and write their output once, three times
    with a backward pass. AdamW reads four numbers of each parameter and writes three.

    Args:
        arch (str): A variant of MambaOut.
        case (Case): Of the backbone alone.
        macs (int): Multiply-accumulates of a forward pass of one image.
        rates (dict[str, float]): Bytes per second of 'copy', and floating-point operations per
            second for each of ``DTYPES``.
    """
    model = MambaOut(arch, output_norm=False)
    training = case.what != 'inference'
    size = torch.empty((), dtype=DTYPES[case.dtype]).element_size()
    height, width = case.height, case.width
    moved = 3.0 * height * width
    for i, (depth, dim) in enumerate(zip(model.depths, model.dims, strict=True)):
        pixels = -(-height // 4 // 2**i) * -(-width // 4 // 2**i)
        moved += pixels * dim * depth * (62.3 if training else 23.0)
        moved += pixels * dim * (3.0 if training else 1.0)
    byte_count = case.batch * moved * size
    if case.what == 'step':
        byte_count += 7 * 4 * sum(p.numel() for p in model.parameters())
    flops = case.batch * macs * (6 if training else 2)
    return max(byte_count / rates['copy'], flops / rates[case.dtype])
