"""The stand-in for mmcv._ext in mmcv's environment report."""

import re

import mmcv
import mmcv.ops as ops
import pytest
from support_mmcv import needs_stand_in

pytestmark = needs_stand_in


def test_environment_report():
    info = mmcv.utils.collect_env()
    assert 'torchvision' in info['MMCV Compiler']
    assert re.fullmatch(r'\d+\.\d+|not available', info['MMCV CUDA Compiler'])
    assert ops.get_compiler_version() == info['MMCV Compiler']


@pytest.mark.parametrize('version, text', [(None, 'not available'), (12080, '12.8')])
def test_cuda_version_in_the_report(monkeypatch, version, text):
    monkeypatch.setattr('torchvision.version.cuda', version)
    assert ops.get_compiling_cuda_version() == text
