"""Time and memory of networks as the image grows, and the exponent of their growth."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from .failure import reason_of
from .memory import PROBE, bytes_kept, memory_free, peak_increase
from .timing import Spread, spread_of, take_turns

PASSES = ('forward', 'forward+backward')
DTYPES = {'fp32': torch.float32, 'bf16': torch.bfloat16}
ROUNDS = 5
FIT_POINTS = 3
LARGE = 896 * 896  # pixels


class Conditions(NamedTuple):
    """How networks run while they are measured.

    Attributes:
        passes (str): 'forward' (no gradients) or 'forward+backward'.
        dtype (str): 'fp32', or 'bf16' for autocast.
        device (str): 'cpu' or 'cuda'.
    """

    passes: str
    dtype: str
    device: str


class Point(NamedTuple):
    """What a network takes at one size.

    Attributes:
        seconds (Spread): Of a call.
        rounds (int): How many calls that is of.
        peak (int): Bytes that a call allocates at once, beside weights and image.
        kept (int, optional): Bytes that the forward pass keeps for the backward pass; None without
            a backward pass.
    """

    seconds: Spread
    rounds: int
    peak: int
    kept: int | None


class Fit(NamedTuple):
    """Slope of log seconds against log tokens, with its standard error."""

    exponent: float
    error: float
    points: int


def fit_exponent(tokens: list[float], seconds: list[float]) -> Fit | None:
    """The power of the number of tokens with which time grows, at the larger sizes.

    Least squares on logarithms over the larger half of the sizes: on small images the time is that
    of calling operators, whatever their number of tokens.

    Args:
        tokens (list[float]): Any measure in proportion to the image's area, ascending.
        seconds (list[float]): Of each.

    Returns:
        Fit | None: None for less than four sizes; there is nothing to fit to.
    """
    points = max(FIT_POINTS, math.ceil(len(tokens) / 2))
    if len(tokens) < points + 1:
        return None
    x, y = np.log(tokens[-points:]), np.log(seconds[-points:])
    x = x - x.mean()
    slope = float(x @ y / (x @ x))
    residual = y - y.mean() - slope * x
    error = math.sqrt(float(residual @ residual) / (points - 2) / float(x @ x))
    return Fit(slope, error, points)


def tokens_at(height: int, width: int) -> int:
    """Tokens of an image at stride 16: the same axis for every network."""
    return math.ceil(height / 16) * math.ceil(width / 16)


def too_late(verb: str = 'measured') -> str:
    """Why something was not 'measured' or 'computed' for lack of time."""
    return f'not {verb}: the time budget would have been passed'


class Series:
    """One network's growth: what it took at each size so far, and why it ended.

    Args:
        name (str): Of the network.
        model (nn.Module): The network, on the device, in eval mode.
        ended (str): Why nothing can be measured. Defaults to '': it can.

    Attributes:
        tokens (list[int]): Of each size that was measured, ascending.
        seconds (list[float]): What a call took there.
        peaks (list[float]): Bytes that a call allocated there.
    """

    def __init__(self, name: str, model: nn.Module, ended: str = '') -> None:
        self.name = name
        self.model = model
        self.tokens: list[int] = []
        self.seconds: list[float] = []
        self.peaks: list[float] = []
        self.probed = (0.0, 0.0)  # seconds and bytes at PROBE
        self.ended = ended

    def add(self, size: tuple[int, int], seconds: float, peak: float) -> None:
        """Note what the next larger size takes."""
        self.tokens.append(tokens_at(*size))
        self.seconds.append(seconds)
        self.peaks.append(peak)

    @contextmanager
    def ending_on_errors(self) -> Iterator[None]:
        """End the series where it fails in any way, and drop its gradients."""
        try:
            yield
        except Exception as error:  # of any kind: a network that fails does not stop the others
            self.ended = reason_of(error)
        self.drop_gradients()

    def drop_gradients(self) -> None:
        """Free the gradients, which are part of what a call needs."""
        self.model.zero_grad(set_to_none=True)

    def forward(self, image: Tensor, dtype: str) -> tuple[Tensor, ...]:
        """The network's maps."""
        with torch.autocast(image.device.type, torch.bfloat16, enabled=dtype == 'bf16'):
            return self.model(image)

    def call(self, image: Tensor, conditions: Conditions) -> Callable[[], object]:
        """The function whose time and memory are measured."""

        def infer() -> None:
            with torch.no_grad():
                self.forward(image, conditions.dtype)

        def train() -> None:
            self.drop_gradients()
            outs = self.forward(image, conditions.dtype)
            torch.autograd.backward(outs, [torch.ones_like(x) for x in outs])

        return infer if conditions.passes == 'forward' else train

    def probe(self, conditions: Conditions) -> None:
        """Run at a small size, so that a large one that cannot be had is not tried."""
        call = self.call(torch.randn(1, 3, *PROBE).to(conditions.device), conditions)
        call()
        start = time.perf_counter()
        call()
        seconds = time.perf_counter() - start
        self.drop_gradients()
        self.probed = seconds, peak_increase(call, conditions.device)

    def memory(self, image: Tensor, conditions: Conditions) -> tuple[int, int | None]:
        """Peak and kept bytes of a call: see :class:`Point`."""
        peak = peak_increase(self.call(image, conditions), conditions.device)
        if conditions.passes == 'forward':
            return peak, None
        return peak, bytes_kept(lambda: self.forward(image, conditions.dtype), self.model)

    def seconds_at(self, tokens: float) -> float:
        """Seconds that a call of a size is expected to take."""
        return self._expected(self.seconds, tokens) or self.probed[0] * tokens / tokens_at(*PROBE)

    def bytes_at(self, tokens: float) -> float:
        """Bytes that a call of a size is expected to take, beside weights and image."""
        return self._expected(self.peaks, tokens) or self.probed[1] * tokens / tokens_at(*PROBE)

    def _expected(self, values: list[float], tokens: float) -> float:
        """The value at a larger size, from the growth between the last two; 0 if not known."""
        if not values:
            return 0.0
        growth = 1.0
        if len(values) > 1 and values[-2] > 0 and self.tokens[-1] > self.tokens[-2]:
            ratio = math.log(self.tokens[-1] / self.tokens[-2])
            growth = max(1.0, math.log(max(values[-1] / values[-2], 1.0)) / ratio)
        return values[-1] * (tokens / self.tokens[-1]) ** growth


def measure_size(
    all_series: list[Series], size: tuple[int, int], conditions: Conditions, seconds_left: float
) -> dict[str, Point]:
    """Measure every network at one size, taking turns; a series that cannot go on ends.

    Args:
        all_series (list[Series]): Of all networks; updated.
        size (tuple[int, int]): Height and width, larger than those before.
        conditions (Conditions): How the networks run.
        seconds_left (float): For all of it; what would take longer is not started.

    Returns:
        dict[str, Point]: By the name of the network, without those whose series has ended.
    """
    deadline = time.perf_counter() + seconds_left
    if math.prod(size) > LARGE:
        for series in all_series:
            if not (series.ended or series.tokens or any(series.probed)):
                with series.ending_on_errors():
                    series.probe(conditions)
    going = _within_limits(all_series, size, conditions.device, seconds_left)
    if not going:
        return {}
    try:
        generator = torch.Generator().manual_seed(0)
        image = torch.randn(1, 3, *size, generator=generator).to(conditions.device)
    except Exception as error:  # of any kind: a size that cannot be had is no end of the comparison
        for series in going:
            series.ended = reason_of(error)
        return {}
    calls, memory = {}, {}
    for series in going:
        with series.ending_on_errors():
            call = series.call(image, conditions)
            start = time.perf_counter()
            call()  # allocates and compiles what later calls find
            first = time.perf_counter() - start
            series.drop_gradients()
            memory[series.name] = series.memory(image, conditions)
            calls[series.name] = call
            deadline -= first  # by which a last round has to start
    times = _times_in_turns(going, calls, conditions.device, deadline)
    points = {}
    for series in going:
        if series.name in times:
            seconds = spread_of(times[series.name])
            peak, kept = memory[series.name]
            series.add(size, seconds.median, peak)
            points[series.name] = Point(seconds, len(times[series.name]), peak, kept)
    return points


def _within_limits(
    all_series: list[Series], size: tuple[int, int], device: str, seconds_left: float
) -> list[Series]:
    """The series that can be expected to fit into memory and time; the others end."""
    free = memory_free(device)
    tokens = tokens_at(*size)
    image = 4 * 3 * math.prod(size)
    for series in all_series:
        needed = series.bytes_at(tokens) + image
        if not series.ended and free and needed > 0.8 * free:
            series.ended = (
                f'out of memory: about {needed / 1e9:.0f} GB are needed, {free / 1e9:.0f} GB free'
            )
    going = [series for series in all_series if not series.ended]
    # A call to start with, one for its memory, and three rounds at least.
    while going and sum(5 * series.seconds_at(tokens) for series in going) > seconds_left:
        slowest = max(going, key=lambda series: series.seconds_at(tokens))
        slowest.ended = too_late()
        going.remove(slowest)
    return going


def _times_in_turns(
    all_series: list[Series],
    calls: dict[str, Callable[[], object]],
    device: str,
    deadline: float,
) -> dict[str, list[float]]:
    """Seconds of each round by :func:`.timing.take_turns`.

    Where a call fails, its series ends, and the others are timed anew.
    """
    by_name = {series.name: series for series in all_series}
    last_called: list[str] = ['']

    def run(name: str) -> None:
        last_called[0] = name
        calls[name]()

    while True:
        try:
            return take_turns(
                {name: partial(run, name) for name in calls if not by_name[name].ended},
                ROUNDS,
                device,
                warm_up=0,
                limit_s=max(0.0, deadline - time.perf_counter()),
                # So that the gradients of one network are not in the memory of another.
                after=lambda name: by_name[name].drop_gradients(),
            )
        except Exception as error:  # of any kind, as in Series.ending_on_errors
            failed = by_name[last_called[0]]
            failed.ended = reason_of(error)
            failed.drop_gradients()
