"""Counted bytes against sums by hand, and against what the C library gives to the process."""

import ctypes
import gc
import threading
import time
import weakref

import pytest
import torch
from torch import nn

from mambaout_mm import EfficientVMamba, MambaOut, PlainMamba, TimmPyramid, Vim, VMamba
from mambaout_mm.measure import memory

LIBC = ctypes.CDLL(None)


def test_kept_bytes_count_shared_memory_once_and_no_parameter():
    layer = nn.Linear(8, 4)
    x = torch.rand(16, 8, requires_grad=True)

    def call():
        y = layer(x)  # keeps x and the weight
        return y * y, y.exp()  # keep y, which is one storage, and exp's result

    sizes = [16 * 8, 16 * 4, 16 * 4]
    assert memory.bytes_kept(call, layer) == 4 * sum(sizes)


def test_counting_kept_bytes_keeps_nothing():
    layer, results = nn.Linear(8, 4), []

    def call():
        y = layer(torch.rand(16, 8)).exp()  # whose node saves y
        results.append(weakref.ref(y))
        return y

    memory.bytes_kept(call, layer)
    gc.collect()
    assert results[0]() is None


def test_peak_is_what_is_allocated_at_once():
    def call():
        first = torch.ones(1000)
        second = first + 1
        del first
        return second * 2  # 4000 bytes take the place of those of `first`

    assert memory.peak_increase(call, 'cpu') == pytest.approx(2 * 4000, abs=100)


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
            time.sleep(0)  # lets the call go on

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
    image = torch.randn(1, 3, 320, 320)

    def train():
        model.zero_grad(set_to_none=True)
        sum(out.sum() for out in model(image)).backward()

    train()  # makes what later calls find
    model.zero_grad(set_to_none=True)
    counted = memory.peak_increase(train, 'cpu')
    allocated = 0
    for _ in range(20):  # a sample may come too late to see a peak that is short
        model.zero_grad(set_to_none=True)
        allocated = max(allocated, allocated_peak(train))
        if allocated >= 0.97 * counted:
            break
    assert counted == pytest.approx(allocated, rel=0.03)
    model.zero_grad(set_to_none=True)
    kept = memory.bytes_kept(lambda: model(image), model)
    assert kept <= counted


def test_free_memory_is_that_of_a_computer():
    assert 1e8 < memory.memory_free('cpu') < 1e14
