"""Time and memory as the image grows, and the exponent of their growth."""

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mambaout_mm.measure.failure import reason_of
from mambaout_mm.measure.memory import PROBE, bytes_kept, memory_free, peak_increase
from mambaout_mm.measure.timing import spread_of, take_turns
from mambaout_mm.ops.modes import references

from .catalogue import Entry
from .records import NAN, Record

WHATS = ('forward', 'forward+backward')
DTYPES = {'fp32': torch.float32, 'bf16': torch.bfloat16}
ROUNDS = 5
TIME_LIMIT = 'not measured: the time budget would have been passed'
# A network in float32 against its own operators' definitions in float64: some 1e-6 is rounding.
PARITY = 1e-4
FIT_POINTS = 3
LARGE = 896 * 896  # pixels


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
    """Tokens of an image at stride 16: the same axis for every backbone."""
    return math.ceil(height / 16) * math.ceil(width / 16)


class Series:
    """One backbone's growth: its network, what has been measured, and why it ended.

    Args:
        entry (Entry): The backbone.
        model (nn.Module): It, on the device, in eval mode.
        ended (str): Why nothing can be measured. Defaults to '': it can.
    """

    def __init__(self, entry: Entry, model: nn.Module, ended: str = '') -> None:
        self.entry = entry
        self.model = model
        self.tokens: list[int] = []
        self.seconds: list[float] = []
        self.peaks: list[float] = []
        self.probed = (0.0, 0.0)  # seconds and bytes at PROBE
        self.ended = ended

    def restore(self, records: list[Record]) -> None:
        """Take up what an earlier run measured at the next larger size, all of it."""
        mine = {r.quantity: r for r in records if r.backbone == self.entry.name}
        self.tokens.append(tokens_at(*(int(side) for side in mine['time'].size.split('x'))))
        self.seconds.append(mine['time'].value / 1e3)
        self.peaks.append(1e6 * mine['peak memory'].value)

    def forward(self, image: Tensor, dtype: str) -> tuple[Tensor, ...]:
        """The backbone's maps."""
        with torch.autocast(image.device.type, torch.bfloat16, enabled=dtype == 'bf16'):
            return self.model(image)

    def call(self, image: Tensor, what: str, dtype: str) -> Callable[[], object]:
        """What is timed."""

        def infer() -> None:
            with torch.no_grad():
                self.forward(image, dtype)

        def train() -> None:
            self.model.zero_grad(set_to_none=True)
            outs = self.forward(image, dtype)
            torch.autograd.backward(outs, [torch.ones_like(x) for x in outs])

        return infer if what == 'forward' else train

    def probe(self, what: str, dtype: str, device: str) -> None:
        """Run at a small size, so that a large one that cannot be had is not tried."""
        call = self.call(torch.randn(1, 3, *PROBE).to(device), what, dtype)
        call()
        start = time.perf_counter()
        call()
        seconds = time.perf_counter() - start
        self.model.zero_grad(set_to_none=True)  # gradients are part of what a call needs
        self.probed = seconds, peak_increase(call, device)
        self.model.zero_grad(set_to_none=True)

    def seconds_at(self, tokens: float) -> float:
        """What a size is expected to take."""
        return self.expected(self.seconds, tokens) or self.probed[0] * tokens / tokens_at(*PROBE)

    def bytes_at(self, tokens: float) -> float:
        """What a size is expected to take of the memory, beside weights and image."""
        return self.expected(self.peaks, tokens) or self.probed[1] * tokens / tokens_at(*PROBE)

    def expected(self, values: list[float], tokens: float) -> float:
        """What a larger size will take, from the growth between the last two; 0 if not known."""
        if not values:
            return 0.0
        growth = 1.0
        if len(values) > 1 and values[-2] > 0 and self.tokens[-1] > self.tokens[-2]:
            ratio = math.log(self.tokens[-1] / self.tokens[-2])
            growth = max(1.0, math.log(max(values[-1] / values[-2], 1.0)) / ratio)
        return values[-1] * (tokens / self.tokens[-1]) ** growth


def check_parity(model: nn.Module, device: str, dtype: str) -> str:
    """Compare a network with itself run by its operators' definitions in float64.

    Maps, and the gradients with respect to the image and every parameter, with weights large enough
    for every block to count. In bfloat16 the allowed error is twice that of the definitions in
    bfloat16.

    Args:
        model (nn.Module): In eval mode.
        device (str): Where the fast operators run.
        dtype (str): In which they do: of ``DTYPES``.

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
            plain = _maps_and_gradients(model, image.to(device), dtype)
        allowed += 2 * _largest_error(plain, exact)
    error = _largest_error(_maps_and_gradients(model, image.to(device), dtype), exact)
    if error <= allowed:
        return ''
    return f'failed: its operators are off by {error:.1e} from their definitions'


def _largest_error(found: list[Tensor], exact: list[Tensor]) -> float:
    """Of all tensors, each against its largest value."""
    return max(
        float((a.cpu() - b).abs().max() / b.abs().max().clamp_min(1e-12))
        for a, b in zip(found, exact, strict=True)
    )


@contextmanager
def whole_float32() -> Iterator[None]:
    """Have CUDA compute float32 in float32: by default convolutions round to TF32."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


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


def growth_records(
    series: list[Series],
    size: tuple[int, int],
    what: str,
    dtype: str,
    device: str,
    seconds_left: float,
) -> Iterator[Record]:
    """Time every backbone at one size, taking turns; a series that cannot go on ends.

    Args:
        series (list[Series]): Of all backbones; updated.
        size (tuple[int, int]): Height and width.
        what (str): 'forward' (no gradients) or 'forward+backward'.
        dtype (str): 'fp32', or 'bf16' for autocast.
        device (str): 'cpu' or 'cuda'.
        seconds_left (float): For all of it; what would take longer is not started.

    Yields:
        Record: 'time', 'peak memory' and 'kept for the backward pass' of each backbone.
    """
    height, width = size
    tokens = tokens_at(height, width)
    calls, memory = {}, {}
    deadline = time.perf_counter() + seconds_left
    if height * width > LARGE:
        _probe_first(series, what, dtype, device)
    going = _within_limits(series, size, device, seconds_left)
    try:
        generator = torch.Generator().manual_seed(0)
        if going:
            image = torch.randn(1, 3, *size, generator=generator).to(device)
    except Exception as error:  # of any kind, as below
        for one in going:
            one.ended = reason_of(error)
        going = []
    for one in going:
        try:
            call = one.call(image, what, dtype)
            before = time.perf_counter()
            call()  # allocates and compiles what later calls find
            took = time.perf_counter() - before
            one.model.zero_grad(set_to_none=True)  # gradients are part of what a call needs
            peak = peak_increase(call, device)
            kept = None
            if what == 'forward+backward':
                kept = bytes_kept(lambda one=one: one.forward(image, dtype), one.model)
            memory[one.entry.name] = peak, kept
            calls[one.entry.name] = call
            deadline -= took  # by which a last round has to start
        except Exception as error:  # of any kind: one that fails is a row, not an end
            one.ended = reason_of(error)
        one.model.zero_grad(set_to_none=True)
    times = _take_turns(calls, series, device, deadline)
    for one in series:
        name = one.entry.name
        if name not in times:
            for quantity, unit in (('time', 'ms'), ('peak memory', 'MB')):
                yield _record(one.entry, quantity, unit, what, dtype, size, note=one.ended)
            continue
        spread = spread_of(times[name])
        peak, kept = memory[name]
        one.tokens.append(tokens)
        one.seconds.append(spread.median)
        one.peaks.append(peak)
        yield _record(
            one.entry,
            'time',
            'ms',
            what,
            dtype,
            size,
            value=1e3 * spread.median,
            low=1e3 * spread.p10,
            high=1e3 * spread.p90,
            note=f'median and deciles of {len(times[name])}, alternating with the others',
        )
        yield _record(
            one.entry,
            'peak memory',
            'MB',
            what,
            dtype,
            size,
            value=peak / 1e6,
            note="by PyTorch's count, beside weights and image",
        )
        if kept is not None:
            yield _record(
                one.entry,
                'kept for the backward pass',
                'MB',
                what,
                dtype,
                size,
                value=kept / 1e6,
            )


def _take_turns(
    calls: dict[str, Callable[[], object]], series: list[Series], device: str, deadline: float
) -> dict[str, list[float]]:
    """:func:`.timing.take_turns` without those that fail, whose series end."""
    running = ''
    by_name = {one.entry.name: one for one in series}

    def noted(name: str) -> None:
        nonlocal running
        running = name
        calls[name]()

    while True:
        limit = max(0.0, deadline - time.perf_counter())
        try:
            return take_turns(
                {name: partial(noted, name) for name in calls},
                ROUNDS,
                device,
                warm_up=0,
                limit_s=limit,
                # So that one's gradients are not in another's memory.
                after=lambda name: by_name[name].model.zero_grad(set_to_none=True),
            )
        except Exception as error:  # as above
            del calls[running]
            by_name[running].ended = reason_of(error)
            by_name[running].model.zero_grad(set_to_none=True)


def _probe_first(series: list[Series], what: str, dtype: str, device: str) -> None:
    for one in series:
        if not one.ended and not one.tokens and one.probed == (0.0, 0.0):
            try:
                one.probe(what, dtype, device)
            except Exception as error:  # of any kind: one that fails is a row, not an end
                one.ended = reason_of(error)


def _within_limits(
    series: list[Series], size: tuple[int, int], device: str, seconds_left: float
) -> list[Series]:
    """The series that can be expected to fit into memory and time; the others end."""
    free = memory_free(device)
    tokens = tokens_at(*size)
    image = 4 * 3 * size[0] * size[1]
    for one in series:
        needed = one.bytes_at(tokens) + image
        if not one.ended and free and needed > 0.8 * free:
            one.ended = (
                f'out of memory: about {needed / 1e9:.0f} GB are needed, {free / 1e9:.0f} GB free'
            )
    going = [one for one in series if not one.ended]
    # A call to start with, one for its memory, and three rounds at least.
    needed = sum(5 * one.seconds_at(tokens) for one in going)
    while going and needed > seconds_left:
        slowest = max(going, key=lambda one: one.seconds_at(tokens))
        slowest.ended = TIME_LIMIT
        going.remove(slowest)
        needed = sum(5 * one.seconds_at(tokens) for one in going)
    return going


def _record(
    entry: Entry,
    quantity: str,
    unit: str,
    what: str,
    dtype: str,
    size: tuple[int, int] | None,
    **fields: Any,
) -> Record:
    return Record(
        **dict(
            section='growth',
            backbone=entry.name,
            mixer=entry.mixer,
            quantity=quantity,
            unit=unit,
            setting=f'{what}, {dtype}',
            size=f'{size[0]}x{size[1]}' if size else '',
            value=NAN,
            origin='measured',
        )
        | fields
    )


def exponent_record(one: Series, what: str, dtype: str) -> Record:
    """The exponent of a series' time."""
    fit = fit_exponent(one.tokens, one.seconds)
    if fit is None:
        found = dict(note=one.ended or f'not fitted: {len(one.tokens)} sizes, four are needed')
    else:
        found = dict(
            value=fit.exponent,
            low=fit.exponent - fit.error,
            high=fit.exponent + fit.error,
            note=(
                f'fitted to {fit.points} sizes, {one.tokens[-fit.points]} to {one.tokens[-1]} '
                'tokens; plus and minus one standard error'
            ),
        )
    return _record(one.entry, 'exponent of time', '', what, dtype, None, **found)
