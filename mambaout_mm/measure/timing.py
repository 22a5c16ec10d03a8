"""Measuring: turns in one process, medians with their spread, memory, and what a machine can do."""

import os
import platform
import re
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from mambaout_mm.errors import UserError

PROBE = (224, 224)  # an image on which a network shows what a much larger one will need


class Spread(NamedTuple):
    """Median, tenth and ninetieth percentile of some seconds."""

    median: float
    p10: float
    p90: float


def spread_of(seconds: list[float]) -> Spread:
    """Of at least two measurements."""
    deciles = statistics.quantiles(seconds, n=10, method='inclusive')
    return Spread(statistics.median(seconds), deciles[0], deciles[-1])


def seconds_of(call: Callable[[], object], device: str) -> float:
    """Seconds of one call; on CUDA by events, the device idle before and after."""
    if device == 'cpu':
        start = time.perf_counter()
        call()
        return time.perf_counter() - start
    torch.cuda.synchronize()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3


def take_turns(
    calls: dict[str, Callable[[], object]],
    rounds: int,
    device: str,
    warm_up: int = 1,
    limit_s: float = float('inf'),
    after: Callable[[str], object] = lambda name: None,
) -> dict[str, list[float]]:
    """Seconds of each call in each round; every round makes every call once.

    Args:
        calls (dict[str, Callable]): What to time, by name.
        rounds (int): Rounds that count.
        device (str): 'cpu' or 'cuda'.
        warm_up (int): Rounds before those. Defaults to 1.
        limit_s (float): No round starts after this many seconds, but for the first three.
            Defaults to infinity.
        after (Callable): Called with the name after each call, untimed. Defaults to nothing.

    Returns:
        dict[str, list[float]]: As many seconds for each name as there were rounds.
    """
    times = {name: [] for name in calls}
    start = time.perf_counter()
    for done in range(-warm_up, rounds):
        if done >= 3 and time.perf_counter() - start > limit_s:
            break
        for name, call in calls.items():
            seconds = seconds_of(call, device)
            after(name)
            if done >= 0:
                times[name].append(seconds)
    return times


def peak_bytes(call: Callable[[], object]) -> int:
    """Most memory that PyTorch holds on the CUDA device during a call, its inputs included."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated()


def peak_increase(call: Callable[[], object], device: str) -> int:
    """Bytes that PyTorch allocates for a call at once, beyond what is in use before it."""
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
    """Bytes that can still be allocated; None where the system does not tell."""
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
        # Cached files count as used there, and make room where it is needed.
        cached = re.search(r'^inactive_file (\d+)$', (group / 'memory.stat').read_text(), re.M)
        used = int((group / 'memory.current').read_text()) - int(cached[1] if cached else 0)
        limits.append(int((group / 'memory.max').read_text()) - used)
    return min(limits, default=None)


def bytes_kept(call: Callable[[], object], model: nn.Module) -> int:
    """Bytes that a forward pass keeps for the backward pass, without the model's parameters.

    Memory that several saved tensors share counts once.

    Args:
        call (Callable): The forward pass.
        model (nn.Module): What it runs, for its parameters and buffers.

    Returns:
        int: Bytes.
    """
    own = {x.untyped_storage().data_ptr() for x in [*model.parameters(), *model.buffers()]}
    kept: dict[int, Any] = {}

    def note(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage  # held, so that no address comes twice
        # An output that its own node saves would keep the graph alive for ever.
        return x.detach()

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        call()
    return sum(storage.nbytes() for storage in kept.values())


def reason_of(error: BaseException) -> str:
    """Why a measurement is missing, in a line."""
    text = (str(error).splitlines() or [''])[0]
    if isinstance(error, UserError):
        return f'failed: {text}'
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or 'allocate memory' in text:
        return 'out of memory'
    return f'failed: {type(error).__name__}: {text}'


def copy_rate(device: str) -> float:
    """Bytes a second, read and written, that copying 256 MB moves: the best of ten."""
    source = torch.ones(1 << 28, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = take_turns({'copy': lambda: target.copy_(source)}, 10, device)
    return 2 * source.numel() / min(seconds['copy'])


def product_rate(device: str, dtype: torch.dtype) -> float:
    """Floating-point operations a second of a large square matrix product: the best of ten."""
    side = 2048 if device == 'cpu' else 8192
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    seconds = take_turns({'product': lambda: a @ b}, 10, device)
    return 2 * side**3 / min(seconds['product'])


def machine(device: str) -> dict[str, Any]:
    """What a table has to say of where it was made."""
    cuda = device == 'cuda'
    return dict(
        device=torch.cuda.get_device_name() if cuda else processor_name(),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        python=platform.python_version(),
        omp_wait_policy=os.environ.get('OMP_WAIT_POLICY', ''),
    )


def processor_name() -> str:
    """What Linux calls the processor; Python has no name for it there."""
    cpuinfo = Path('/proc/cpuinfo')
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(':', 1)[1].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.processor() or platform.machine()
