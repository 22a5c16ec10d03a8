"""Export of a MambaOut backbone: plain operators, and any size of the image."""

import re

import pytest
import torch
from support import ROOT, needs_torch

import mambaout_mm
from mambaout_mm import MambaOut

pytestmark = needs_torch('2.7', 'before, an export is taken for torch.compile')

# No side needs to be a multiple of anything: the exporters know that each stride-2 convolution
# rounds up. But the last map must have two pixels a side, because a size of one is taken as a
# constant, for broadcasting.
SMALLEST, LARGEST = 33, 2048
SIZES = [(SMALLEST, 101), (160, 75)]


@pytest.fixture(scope='module')
def backbone():
    torch.manual_seed(0)
    backbone = MambaOut('femto').eval()
    for parameter in backbone.parameters():  # biases of 0 and norms of 1 would hide errors
        parameter.data += 0.1 * torch.randn_like(parameter) * parameter.abs().mean().clamp(min=0.1)
    return backbone


def any_size():
    """An image for an exporter, and that both of its sides may change."""
    sides = [torch.export.Dim(name, min=SMALLEST, max=LARGEST) for name in ('height', 'width')]
    return (torch.randn(1, 3, 64, 96),), ({2: sides[0], 3: sides[1]},)


@pytest.fixture(scope='module')
def exported(backbone):
    image, shapes = any_size()
    return torch.export.export(backbone, image, dynamic_shapes=shapes, strict=False)


def assert_near(outs, expected):
    for i, (out, truth) in enumerate(zip(outs, expected, strict=True)):
        assert out.shape == truth.shape, i
        assert (out - truth).abs().max() < 1e-4 * truth.abs().max(), i


def test_an_exported_program_has_plain_operators(exported):
    calls = [str(node.target) for node in exported.graph.nodes if node.op == 'call_function']
    assert any('conv2d' in call for call in calls)
    assert [call for call in calls if 'mambaout' in call] == []


@pytest.mark.parametrize('size', SIZES)
def test_an_exported_program_agrees_at_another_size(size, exported, backbone):
    image = torch.randn(1, 3, *size)
    with torch.no_grad():
        assert_near(exported.module()(image), backbone(image))


def test_onnx_runtime_agrees_at_other_sizes(backbone, tmp_path, monkeypatch):
    """By the README's code, for a backbone without zeros."""
    runtime = pytest.importorskip('onnxruntime', reason='runs the ONNX file')
    pytest.importorskip('onnxscript', reason='torch.onnx.export(dynamo=True) needs it')
    *_, code = re.findall(r'```python\n(.*?)```', (ROOT / 'README.md').read_text(), flags=re.S)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mambaout_mm, 'MambaOut', lambda arch: backbone)
    exec(compile(code, 'README.md', 'exec'), {})
    session = runtime.InferenceSession('mambaout.onnx', providers=['CPUExecutionProvider'])
    (given,) = session.get_inputs()
    for size in SIZES:
        image = torch.randn(1, 3, *size)
        outs = session.run(None, {given.name: image.numpy()})
        with torch.no_grad():
            assert_near([torch.from_numpy(out) for out in outs], backbone(image))
