"""The gate's Triton kernels: in Triton's interpreter, compiled without a GPU, and on a GPU.

The interpreter has to be chosen before Triton is imported, and to compile for a GPU that is not
there, Triton has to take it for the device. Both happen in processes of their own, all at once:
pytest on the functions ``check_*`` of this file, and this file as a script, once for each target.
"""

import importlib
import json
import sys
import types
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[3]

triton = pytest.importorskip('triton', minversion='3.3')

from support_triton import (  # noqa: E402
    CUOBJDUMP,
    TARGETS,
    compile_at_launch,
    start_processes,
    usage_of,
)


def load_alone():
    """Kernels and definition, without the package around them, which takes long to import."""
    package = types.ModuleType('gated_cnn_alone')
    package.__path__ = [str(ROOT / 'mambaout_mm' / 'ops' / 'gated_cnn')]
    sys.modules['gated_cnn_alone'] = package
    reference = importlib.import_module('gated_cnn_alone.reference')
    return importlib.import_module('gated_cnn_alone.triton_gate'), reference.gate_reference


def random_inputs(shape, layout='dense', device='cpu'):
    """grad_gate, h, conv_weight, conv_bias and hidden."""
    *pixels, channels, hidden, size = shape
    torch.manual_seed(0)

    def random_map(width):
        if layout == 'dense':
            return torch.randn(*pixels, width, device=device)
        n, h, w = pixels  # a view of every other row, between other columns and channels
        return torch.randn(n, 2 * h, w + 3, width + 5, device=device)[:, ::2, 1:-2, 3:-2]

    weight = torch.randn(channels, 1, size, size, device=device) / size
    bias = torch.randn(channels, device=device)
    return [random_map(hidden), random_map(2 * hidden), weight, bias, hidden]


def cast(inputs, dtype):
    return [x.to(dtype) for x in inputs[:4]] + inputs[4:]


def run(kernels, inputs, activation):
    """Gate of the forward pass, then gradients and gate of the backward pass."""
    return kernels.forward(*inputs[1:], activation), *kernels.backward(*inputs, activation)


def run_reference(definition, inputs, activation):
    """The same by autograd."""
    grad_gate, *tensors, hidden = inputs
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    gate = definition(*leaves, hidden, activation)
    return gate.detach(), *torch.autograd.grad(gate, leaves, grad_gate), gate.detach()


def error(value, exact):
    """Largest difference, relative to the largest exact value."""
    return (value.double() - exact).abs().max().item() / (exact.abs().max().item() or 1)


def assert_as_near(kernels, definition, inputs, activation, granted=1e-6):
    """As near to exact values as PyTorch's operations in the same dtype."""
    results = run(kernels, inputs, activation)
    exact = run_reference(definition, cast(inputs, torch.float64), activation)
    plain = run_reference(definition, inputs, activation)
    dtype = inputs[1].dtype
    names = ('gate', 'grad_h', 'grad_weight', 'grad_bias', 'gate again')
    for name, value, other, true in zip(names, results, plain, exact, strict=True):
        assert value.shape == true.shape and value.dtype == dtype and value.is_contiguous(), name
        assert error(value, true) <= 2 * error(other, true) + granted, name


@pytest.fixture
def poisoned(monkeypatch):
    """Fresh memory is NaN, so that an element that no kernel writes shows."""

    def poison(allocate):
        def allocate_nan(*args, **kwargs):
            x = allocate(*args, **kwargs)
            return x.fill_(float('nan')) if x.is_floating_point() else x

        return allocate_nan

    for owner, name in ((torch, 'empty'), (torch, 'empty_like'), (torch.Tensor, 'new_empty')):
        monkeypatch.setattr(owner, name, poison(getattr(owner, name)))


@pytest.fixture(scope='module')
def interpreted():
    return load_alone()


# (N, H, W, conv channels, hidden, kernel), layout, dtype, activation, programs for the weight's
# gradient
CASES = [
    ((1, 9, 19, 3, 9, 7), 'dense', torch.float32, 'gelu', 3),
    ((2, 3, 17, 33, 40, 3), 'view', torch.float32, 'silu', 4),
    ((1, 2, 3, 128, 341, 7), 'dense', torch.bfloat16, 'gelu', 256),
    ((2, 1, 40, 5, 5, 7), 'dense', torch.bfloat16, 'gelu', 1),
    ((1, 17, 1, 16, 48, 5), 'view', torch.float16, 'silu', 2),
    ((1, 1, 1, 1, 2, 7), 'dense', torch.float16, 'gelu', 256),
    ((2, 3, 4, 8, 16, 1), 'dense', torch.float32, 'gelu', 256),
]


@pytest.mark.parametrize(('shape', 'layout', 'dtype', 'activation', 'programs'), CASES)
def check_shapes_layouts_and_dtypes(
    shape, layout, dtype, activation, programs, interpreted, poisoned, monkeypatch
):
    monkeypatch.setattr(interpreted[0], 'PROGRAMS', programs)
    inputs = cast(random_inputs(shape, layout), dtype)
    # The interpreter cuts bfloat16 off where a GPU rounds.
    granted = 2**-8 if dtype == torch.bfloat16 else 1e-6
    assert_as_near(*interpreted, inputs, activation, granted)


def check_gradient_of_any_strides(interpreted, poisoned):
    inputs = random_inputs((1, 3, 4, 2, 5, 3))
    inputs[0] = inputs[0].permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    assert_as_near(*interpreted, inputs, 'gelu')
    inputs[0] = inputs[0][:1, :1, :1, :1].expand(inputs[0].shape)
    assert_as_near(*interpreted, inputs, 'gelu')


@pytest.mark.parametrize('activation', ['gelu', 'silu'])
def check_activation_everywhere(activation, interpreted):
    """gate = act(g) and its slope act'(g), where i = 1; far from 0 too, and for NaN."""
    kernels, _ = interpreted
    near = torch.linspace(-8, 8, 501)
    g = torch.cat((near, torch.tensor([-1e30, -100, -20, 20, 100, 1e30, float('nan')])))
    h = torch.stack((g, g, torch.ones_like(g), torch.zeros_like(g)), dim=-1)[None, None]
    weight, bias = torch.ones(1, 1, 1, 1), torch.ones(1)
    grad_gate = torch.ones(1, 1, len(g), 2)
    grad_h, _, _, gate = kernels.backward(grad_gate, h, weight, bias, 2, activation)
    exact = g.double().requires_grad_()
    value = getattr(torch.nn.functional, activation)(exact)
    (slope,) = torch.autograd.grad(value.sum(), exact)
    # A plain channel, which meets i = 1, then a convolved one, which meets 0 + 1.
    for channel in range(2):
        torch.testing.assert_close(
            gate[0, 0, :, channel].double(), value.detach(), rtol=3e-7, atol=1e-7, equal_nan=True
        )
        torch.testing.assert_close(
            grad_h[0, 0, :, channel].double(), slope, rtol=3e-7, atol=3e-7, equal_nan=True
        )


# Model, layout, dtype, activation, (N, H, W, conv channels, hidden, kernel). Of the four stages the
# first alone: all take the same registers.
SIZES = [
    ('stage 1', 'dense', 'bfloat16', 'gelu', (1, 200, 320, 96, 256, 7)),
    ('stage 1', 'dense', 'float32', 'gelu', (1, 200, 320, 96, 256, 7)),
    ('odd', 'view', 'float16', 'silu', (2, 10, 18, 33, 41, 3)),
]
KERNELS = ('forward_kernel', 'gate_kernel', 'gradient_kernel')


def compile_kernels(target, folder):
    """Compile what real sizes launch; print registers, stack and local memory as JSON."""

    kernels, _ = load_alone()
    compiled = compile_at_launch(kernels, KERNELS, target)
    table = []
    for model, layout, dtype, activation, shape in SIZES:
        compiled.clear()
        inputs = random_inputs(shape, layout, 'meta')
        run(kernels, cast(inputs, getattr(torch, dtype)), activation)
        for kernel in compiled:
            table.append([model, dtype, kernel.metadata.name, *usage_of(kernel, folder)])
    print(json.dumps(table))


@pytest.fixture(scope='module')
def processes(tmp_path_factory):
    started = start_processes(__file__, tmp_path_factory.mktemp)
    yield started
    for process in started.values():
        process.kill()


@pytest.mark.parametrize('target', TARGETS)
def test_compiled_without_spills(target, processes):
    if target not in processes:
        pytest.skip(f'Triton brings no ptxas and cuobjdump, looked for in {CUOBJDUMP.parent}')
    output, _ = processes[target].communicate(timeout=400)
    assert processes[target].returncode == 0, output
    table = json.loads(output.splitlines()[-1])
    assert [row[2] for row in table] == list(KERNELS) * len(SIZES)
    for model, dtype, kernel, registers, stack, local in table:
        row = f'{target} {model} {dtype:8} {kernel:16} {registers:3} registers'
        print(row)
        if model != 'odd':  # where nothing is aligned, a few bytes of the stack do not matter
            assert stack == local == 0, (row, stack, local)
            # Four programs on each multiprocessor, or three.
            assert registers <= (128 if dtype == 'bfloat16' else 168), row


def test_in_the_interpreter(processes):
    output, _ = processes['interpreter'].communicate(timeout=400)
    assert processes['interpreter'].returncode == 0, output
    assert f'{len(CASES) + 3} passed' in output


def on_cuda(test):
    skip = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
    return pytest.mark.cuda(skip(test))


@pytest.fixture
def on_device(monkeypatch):
    """Kernels and definition; PyTorch's convolutions in full float32."""
    from mambaout_mm.ops.gated_cnn import triton_gate
    from mambaout_mm.ops.gated_cnn.reference import gate_reference

    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)
    return triton_gate, gate_reference


@on_cuda
@pytest.mark.parametrize(('shape', 'layout', 'dtype', 'activation', 'programs'), CASES)
def test_shapes_on_cuda(
    shape, layout, dtype, activation, programs, on_device, poisoned, monkeypatch
):
    monkeypatch.setattr(on_device[0], 'PROGRAMS', programs)
    inputs = cast(random_inputs(shape, layout, 'cuda'), dtype)
    assert_as_near(*on_device, inputs, activation)


@on_cuda
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('shape', [(2, 200, 320, 96, 256, 7), (2, 25, 40, 576, 1536, 7)])
def test_real_sizes_on_cuda(shape, dtype, on_device, poisoned):
    """The first and the last stage of MambaOut-T at 800x1280."""
    inputs = cast(random_inputs(shape, device='cuda'), dtype)
    assert_as_near(*on_device, inputs, 'gelu')
    first, second = (run(on_device[0], inputs, 'gelu') for _ in range(2))
    assert all(map(torch.equal, first, second))


@on_cuda
def test_graph_on_cuda(on_device):
    kernels, _ = on_device
    inputs = random_inputs((1, 20, 30, 24, 64, 7), device='cuda')
    run(kernels, inputs, 'gelu')  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = run(kernels, inputs, 'gelu')
    for x in inputs[:4]:
        x.normal_()
    graph.replay()
    assert all(map(torch.equal, results, run(kernels, inputs, 'gelu')))


if __name__ == '__main__':
    compile_kernels(*sys.argv[1:])
