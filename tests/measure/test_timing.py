import ctypes
import gc
import threading
import time
import weakref

import pytest
import torch
from torch import nn

from mambaout_mm import EfficientVMamba, MambaOut, PlainMamba, TimmPyramid, Vim, VMamba
from mambaout_mm.measure import timing

LIBC = ctypes.CDLL(None)


def test_every_round_makes_every_call_in_turn():
    order = []
    calls = {name: (lambda name=name: order.append(name)) for name in 'ab'}
    times = timing.take_turns(calls, rounds=4, device='cpu', warm_up=1)
    assert order == ['a', 'b'] * 5
    assert {name: len(seconds) for name, seconds in times.items()} == {'a': 4, 'b': 4}


def test_no_round_starts_after_the_limit_but_for_three():
    times = timing.take_turns({'a': lambda: None}, rounds=9, device='cpu', limit_s=0)
    assert len(times['a']) == 3


def test_spread_is_median_and_deciles():
    assert timing.spread_of([5.0, *map(float, range(11))][1:]) == (5.0, 1.0, 9.0)


def test_kept_bytes_count_shared_memory_once_and_no_parameter():
    layer = nn.Linear(8, 4)
    x = torch.rand(16, 8, requires_grad=True)

    def call():
        y = layer(x)  # keeps x and the weight
        return y * y, y.exp()  # keep y, which is one storage, and exp's result

    sizes = [16 * 8, 16 * 4, 16 * 4]
    assert timing.bytes_kept(call, layer) == 4 * sum(sizes)


def test_counting_kept_bytes_keeps_nothing():
    layer, results = nn.Linear(8, 4), []

    def call():
        y = layer(torch.rand(16, 8)).exp()  # whose node saves y
        results.append(weakref.ref(y))
        return y

    timing.bytes_kept(call, layer)
    gc.collect()
    assert results[0]() is None


def test_peak_is_what_is_allocated_at_once():
    def call():
        first = torch.ones(1000)
        second = first + 1
        del first
        return second * 2  # 4000 bytes take the place of those of `first`

    assert timing.peak_increase(call, 'cpu') == pytest.approx(2 * 4000, abs=100)


class Mallinfo(ctypes.Structure):
    """glibc's ``struct mallinfo2``."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *('arena', 'ordblks', 'smblks', 'hblks', 'hblkhd'),
            *('usmblks', 'fsmblks', 'uordblks', 'fordblks', 'keepcost'),
        )
    ]


def allocated_peak(call):
    """Most bytes that the process has from malloc during a call, whoever asked for them.

    Sampled by a thread, beyond what was in use before.
    """
    LIBC.mallinfo2.restype = Mallinfo
    peak, over = 0, threading.Event()

    def in_use():
        info = LIBC.mallinfo2()
        return info.uordblks + info.hblkhd

    def sample():
        nonlocal peak
        while not over.is_set():
            peak = max(peak, in_use())
            time.sleep(1e-4)

    before = in_use()
    thread = threading.Thread(target=sample)
    thread.start()
    call()
    over.set()
    thread.join()
    return peak - before


# The first stage alone, where the large maps are: each side's way of allocating shows there.
FIRST_STAGES = {
    'MambaOut': lambda: MambaOut('tiny', out_indices=(0,)),
    'MambaOut (timm)': lambda: TimmPyramid('mambaout_tiny', out_indices=(0,)),
    'VMamba': lambda: VMamba('tiny_s1l8', out_indices=(0,)),
    'EfficientVMamba': lambda: EfficientVMamba('base', out_indices=(0,)),
    'Vim': lambda: Vim(dict(depths=(1, 1, 1, 1), dim=192), pyramid=None),
    'PlainMamba': lambda: PlainMamba(dict(depths=(1, 1, 1, 1), dim=192), pyramid=None),
    'ConvNeXt': lambda: TimmPyramid('convnext_tiny', out_indices=(0,)),
    'Swin': lambda: TimmPyramid('swin_tiny_patch4_window7_224', out_indices=(0,)),
}


@pytest.mark.skipif(not hasattr(LIBC, 'mallinfo2'), reason="the C library is not glibc's")
@pytest.mark.parametrize('name', FIRST_STAGES)
def test_peak_is_what_the_process_allocates(name):
    """Memory that another allocator than PyTorch's gave would be missing for its user alone."""
    model = FIRST_STAGES[name]()
    image = torch.randn(1, 3, 640, 640)

    def train():
        model.zero_grad(set_to_none=True)
        sum(out.sum() for out in model(image)).backward()

    train()  # makes what later calls find
    model.zero_grad(set_to_none=True)
    counted = timing.peak_increase(train, 'cpu')
    model.zero_grad(set_to_none=True)
    assert counted == pytest.approx(allocated_peak(train), rel=0.03)
    model.zero_grad(set_to_none=True)
    kept = timing.bytes_kept(lambda: model(image), model)
    assert kept <= counted


def test_free_memory_is_that_of_a_computer():
    assert 1e8 < timing.memory_free('cpu') < 1e14


@pytest.mark.parametrize(
    'measure', [timing.copy_rate, lambda d: timing.product_rate(d, torch.float32)]
)
def test_rates_are_those_of_a_computer(measure):
    assert 1e8 < measure('cpu') < 1e14
