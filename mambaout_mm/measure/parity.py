"""Whether a network's fast operators compute what their definitions say."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mambaout_mm.ops.modes import references

# A network in float32 against its own operators' definitions in float64: some 1e-6 is rounding.
PARITY = 1e-4


def check_parity(model: nn.Module, device: str, dtype: str) -> str:
    """Compare a network with itself run by its operators' definitions in float64.

    Maps, and the gradients with respect to the image and every parameter, with weights large enough
    for every block to count. In bfloat16 the allowed error is twice that of the definitions in
    bfloat16.

    Args:
        model (nn.Module): In eval mode; a copy of it runs.
        device (str): Where the fast operators run.
        dtype (str): In which they do: 'fp32', or 'bf16' for autocast.

    Returns:
        str: What is wrong; '' if they agree.
    """
    model = copy.deepcopy(model)
    torch.manual_seed(0)
    for weight in model.parameters():
        if weight.dim() > 1:
            nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
    image = torch.randn(1, 3, 64, 96)
    with references():
        exact = _maps_and_gradients(model.double().cpu(), image.double(), 'fp32')
    model.float().to(device)
    allowed = PARITY
    if dtype == 'bf16':
        with references():
            defined = _maps_and_gradients(model, image.to(device), dtype)
        allowed += 2 * _largest_error(defined, exact)
    error = _largest_error(_maps_and_gradients(model, image.to(device), dtype), exact)
    if error <= allowed:
        return ''
    return f'failed: its operators are off by {error:.1e} from their definitions'


@contextmanager
def whole_float32() -> Iterator[None]:
    """Have CUDA compute float32 in float32: by default convolutions round to TF32."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def _largest_error(found: list[Tensor], exact: list[Tensor]) -> float:
    """The largest error of all tensors, each relative to its largest value."""
    return max(
        float((a.cpu() - b).abs().max() / b.abs().max().clamp_min(1e-12))
        for a, b in zip(found, exact, strict=True)
    )


def _maps_and_gradients(model: nn.Module, image: Tensor, dtype: str) -> list[Tensor]:
    image = image.requires_grad_()
    with torch.autocast(image.device.type, torch.bfloat16, enabled=dtype == 'bf16'):
        outs = model(image)
    generator = torch.Generator().manual_seed(1)
    # Ones would not do: what flows through a LayerNorm from them is zero.
    weights = [torch.randn(x.shape, generator=generator).to(x) for x in outs]
    total = sum((x * w).sum() for x, w in zip(outs, weights, strict=True))
    used = [p for p in model.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(total, [image, *used], allow_unused=True)
    return [x.detach().double() for x in (*outs, *gradients) if x is not None]
