"""Timing: calls that take turns in one process, and medians with their spread."""

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch


class Spread(NamedTuple):
    """Median, tenth and ninetieth percentile of measured seconds."""

    median: float
    p10: float
    p90: float


def spread_of(seconds: list[float]) -> Spread:
    """Median and percentiles of at least two measurements, in seconds."""
    deciles = statistics.quantiles(seconds, n=10, method='inclusive')
    return Spread(statistics.median(seconds), deciles[0], deciles[-1])


def seconds_of(call: Callable[[], object], device: str) -> float:
    """Seconds of one call; on CUDA by events, with the device idle before and after."""
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
        warm_up (int): Rounds before those that count. Defaults to 1.
        limit_s (float): Seconds after which no round starts, except the first three. Defaults to
            infinity.
        after (Callable): Called with the name after each call, untimed. Defaults to nothing.

    Returns:
        dict[str, list[float]]: Seconds of each call, one number for each round.
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
