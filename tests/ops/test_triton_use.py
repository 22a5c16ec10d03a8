"""Where operators run their Triton kernels, and what is said where they cannot."""

import warnings

import pytest
import torch

from mambaout_mm.ops import triton_use
from mambaout_mm.ops.triton_use import runs_triton


@pytest.fixture
def without_triton(monkeypatch):
    monkeypatch.setattr(triton_use, 'find_spec', lambda name: None)
    triton_use._is_installed.cache_clear()
    yield
    triton_use._is_installed.cache_clear()


def test_a_missing_triton_is_told_once(without_triton):
    arguments = torch.device('cuda'), torch.float32, 'selective_scan', 'in blocks'
    with pytest.warns(UserWarning, match='selective_scan runs in blocks: Triton is not installed'):
        assert not runs_triton(*arguments)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert not runs_triton(*arguments)


@pytest.mark.parametrize(('device', 'dtype'), [('cpu', torch.float32), ('cuda', torch.float64)])
def test_nothing_is_told_where_no_kernel_would_run(device, dtype, without_triton):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert not runs_triton(torch.device(device), dtype, 'selective_scan', 'in blocks')


@pytest.mark.parametrize('cuda', [False, True])
def test_the_description_says_what_is_missing(cuda, without_triton, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: cuda)
    missing = 'Triton is not installed' if cuda else 'no CUDA device'
    assert missing in triton_use.description()


def test_the_description_names_the_device(monkeypatch):
    monkeypatch.setattr(triton_use, 'find_spec', lambda name: object())
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda: 'NVIDIA H100')
    assert triton_use.description() == 'in use, on NVIDIA H100'
