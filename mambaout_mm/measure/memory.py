"""Memory: the peak of a call, bytes that a forward pass keeps, and bytes that are free."""

import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

# Height and width of an image on which a network shows how much memory a larger image will take
PROBE = (224, 224)


def peak_bytes(call: Callable[[], object]) -> int:
    """Most memory that PyTorch holds on the CUDA device during a call, its inputs included."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated()


def peak_increase(call: Callable[[], object], device: str) -> int:
    """Most bytes that PyTorch holds at once during a call, beyond the bytes in use before it."""
    if device == 'cuda':
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        return peak_bytes(call) - before
    os.environ.setdefault('KINETO_LOG_LEVEL', '99')  # or it prints two lines for each profile
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    in_use = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == '[memory]':
            in_use += event.nbytes()
            peak = max(peak, in_use)
    return peak


def memory_free(device: str) -> int | None:
    """Bytes that can still be allocated; None if the system does not tell."""
    if device == 'cuda':
        cached = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return torch.cuda.mem_get_info()[0] + cached
    limits = []
    meminfo = Path('/proc/meminfo')
    if meminfo.exists():
        available = re.search(r'^MemAvailable: +(\d+) kB$', meminfo.read_text(), re.M)
        limits += [1024 * int(available[1])] if available else []
    group = Path('/sys/fs/cgroup')  # of a container
    with suppress(OSError, ValueError):  # no such group, or 'max': no limit
        # Cached files count as used there, and make room when it is needed.
        cached = re.search(r'^inactive_file (\d+)$', (group / 'memory.stat').read_text(), re.M)
        used = int((group / 'memory.current').read_text()) - int(cached[1] if cached else 0)
        limits.append(int((group / 'memory.max').read_text()) - used)
    return min(limits, default=None)


def bytes_kept(call: Callable[[], object], model: nn.Module) -> int:
    """Bytes that a forward pass keeps for the backward pass, without the model's parameters.

    Memory that several kept tensors share counts once.

    Args:
        call (Callable): The forward pass.
        model (nn.Module): The model that runs in it, for its parameters and buffers.

    Returns:
        int: Bytes.
    """
    own = {x.untyped_storage().data_ptr() for x in [*model.parameters(), *model.buffers()]}
    kept: dict[int, Any] = {}

    def note(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage  # held, so that no address comes twice
        # Not x itself: an output that its own node keeps would hold the graph for ever.
        return x.detach()

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        call()
    return sum(storage.nbytes() for storage in kept.values())
