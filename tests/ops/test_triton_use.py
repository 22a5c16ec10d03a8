"""Where operators run their Triton kernels, and what is said where they cannot."""

import sys
import warnings
from types import SimpleNamespace

import pytest
import torch

from mambaout_mm.ops import triton_use
from mambaout_mm.ops.triton_use import runs_triton


@pytest.fixture
def without_triton(monkeypatch):
    monkeypatch.setattr(triton_use, 'find_spec', lambda name: None)
    triton_use._is_usable.cache_clear()
    yield
    triton_use._is_usable.cache_clear()


@pytest.fixture
def triton_of(monkeypatch):
    """Puts a Triton of some version in place of the installed one."""

    def install(version):
        monkeypatch.setattr(triton_use, 'find_spec', lambda name: object())
        monkeypatch.setitem(sys.modules, 'triton', SimpleNamespace(__version__=version))
        triton_use._is_usable.cache_clear()

    yield install
    triton_use._is_usable.cache_clear()


@pytest.mark.parametrize('version', [None, '2.1.0', '3.2.0'])
def test_a_missing_or_old_triton_is_told_once(version, without_triton, triton_of):
    if version:
        triton_of(version)
    arguments = torch.device('cuda'), torch.float32, 'selective_scan', 'in blocks'
    reason = f'Triton {version} is older than 3.3' if version else 'Triton is not installed'
    with pytest.warns(UserWarning, match=f'selective_scan runs in blocks: {reason}'):
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


@pytest.mark.parametrize('version', ['3.3.0', '3.10.0+git1234'])
def test_the_description_names_the_device(version, triton_of, monkeypatch):
    triton_of(version)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda: 'NVIDIA H100')
    assert triton_use.description() == 'in use, on NVIDIA H100'
