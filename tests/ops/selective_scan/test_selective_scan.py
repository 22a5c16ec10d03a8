"""The scan against the official code's vectors and the plain recurrence."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from support import needs_torch
from support_scan import NAMES, random_inputs, relative_error, with_gradients
from torch import library
from torch.utils.checkpoint import checkpoint

from mambaout_mm.ops import native as libraries
from mambaout_mm.ops.selective_scan import blocked, selective_scan
from mambaout_mm.ops.selective_scan.reference import selective_scan_reference

DATA = Path(__file__).parents[2] / 'data'


def assert_same(inputs, limit=1e-12, **kwargs):
    cotangent = torch.randn_like(inputs[0])
    y, grads = with_gradients(selective_scan, inputs, cotangent, **kwargs)
    double = [None if x is None else x.double() for x in inputs]
    expected, expected_grads = with_gradients(
        selective_scan_reference, double, cotangent.double(), **kwargs
    )
    names = [name for name, x in zip(NAMES, inputs, strict=False) if x is not None]
    assert relative_error(y, expected) < limit
    for name, grad, other in zip(names, grads, expected_grads, strict=True):
        if other.abs().max() == 0:  # of A and of the decay, at length 1
            assert grad.abs().max() == 0, name
        else:
            assert relative_error(grad, other) < limit, name


@pytest.fixture(params=['native', 'blocked'])
def implementation(request, monkeypatch):
    """Both that a CPU has for float32 and bfloat16; other dtypes always take 'blocked'."""
    if request.param == 'blocked':
        monkeypatch.setattr(libraries, 'kernels', lambda: None)
    elif libraries.kernels() is None:
        pytest.skip(libraries.description())


@pytest.fixture
def small_segments(monkeypatch):
    """Segments of at least 16 steps and chunks, so that short sequences cross their borders."""
    monkeypatch.setattr(blocked, '_segment_length', lambda width: max(16, 512 // width))
    monkeypatch.setattr(blocked, 'STEP_ELEMENTS', 128)


@pytest.mark.parametrize('scan', [selective_scan, selective_scan_reference])
@pytest.mark.parametrize('path', sorted(DATA.glob('scan_*.npz')), ids=lambda p: p.stem)
def test_reproduces_the_official_vectors(path, scan, small_segments):
    arrays = np.load(path)
    config = json.loads(str(arrays['config']))
    inputs = [torch.from_numpy(arrays[n]) if n in arrays else None for n in NAMES]
    # Files in float32 have A, D and their gradients in float64.
    inputs = [x if x is None else x.double() for x in inputs]
    cotangent = torch.from_numpy(arrays['cotangent']).double()
    softplus = config.get('delta_softplus', 'plain' not in path.stem)
    y, grads = with_gradients(scan, inputs, cotangent, delta_softplus=softplus)
    limit = 1e-12 if path.stem.endswith('f64') else 1e-6  # rounding of the file
    assert relative_error(y, torch.from_numpy(arrays['out'])) < limit
    names = [name for name, x in zip(NAMES, inputs, strict=True) if x is not None]
    for name, grad in zip(names, grads, strict=True):
        assert relative_error(grad, torch.from_numpy(arrays[f'grad_{name}'])) < limit, name


@pytest.mark.parametrize(
    ('batch', 'groups', 'channels', 'state', 'length'),
    [
        (1, 1, 1, 1, 1),
        (2, 4, 3, 1, 2),
        (2, 4, 3, 1, 1000),
        (1, 4, 5, 1, 997),
        (3, 2, 4, 2, 131),
        (2, 1, 6, 16, 65),
        (1, 4, 2, 5, 64),
    ],
)
def test_agrees_with_the_recurrence(batch, groups, channels, state, length, small_segments):
    assert_same(random_inputs(batch, groups, channels, state, length))


@pytest.mark.parametrize('state', [1, 3])
def test_every_element_is_written_before_it_is_read(state, small_segments, monkeypatch):
    plain = torch.empty, torch.empty_like, torch.Tensor.new_empty

    def poisoned(allocate):
        return lambda *args, **kwargs: allocate(*args, **kwargs).fill_(float('nan'))

    monkeypatch.setattr(torch, 'empty', poisoned(plain[0]))
    monkeypatch.setattr(torch, 'empty_like', poisoned(plain[1]))
    monkeypatch.setattr(torch.Tensor, 'new_empty', poisoned(plain[2]))
    assert_same(random_inputs(2, 2, 3, state, 150))


@pytest.mark.parametrize('state', [1, 3])
def test_optional_arguments(state, small_segments):
    u, delta, A, B, C, D, bias = random_inputs(2, 2, 3, state, 77)
    assert_same([u, delta, A, B, C, None, None])
    assert_same([u, delta, A, B, C, D, None])
    assert_same([u, delta.abs(), A, B, C, None, bias.abs()], delta_softplus=False)


@pytest.mark.parametrize('layout', ['length last', 'channels last', 'four dimensions', 'expanded'])
def test_any_memory_layout(layout):
    u, delta, *rest = random_inputs(2, 4, 3, 1, 50)
    expected = selective_scan_reference(u, delta, *rest)
    if layout == 'channels last':
        u, delta = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (u, delta))
    elif layout == 'four dimensions':  # groups outermost: (b, G, D, L) of memory (b, G, L, D)
        u, delta = (
            x.unflatten(1, (4, 3)).transpose(2, 3).contiguous().transpose(2, 3) for x in (u, delta)
        )
        expected = selective_scan_reference(u, delta, *rest)
    elif layout == 'expanded':
        u = u[:1].expand(2, -1, -1)
        expected = selective_scan_reference(u, delta, *rest)
    y = selective_scan(u, delta, *rest)
    assert y.shape == u.shape
    assert relative_error(y, expected) < 1e-12


@pytest.mark.parametrize(('state', 'length'), [(1, 5000), (16, 700)])
def test_float32_is_as_near_to_float64_as_the_plain_loop(state, length, implementation):
    inputs = random_inputs(1, 4, 8, state, length, torch.float32)
    cotangent = torch.randn_like(inputs[0])
    exact, exact_grads = with_gradients(
        selective_scan_reference, [x.double() for x in inputs], cotangent.double()
    )
    plain, plain_grads = with_gradients(selective_scan_reference, inputs, cotangent)
    ours, our_grads = with_gradients(selective_scan, inputs, cotangent)
    for name, a, b, truth in zip(
        ('y', *NAMES),
        (ours, *our_grads),
        (plain, *plain_grads),
        (exact, *exact_grads),
        strict=True,
    ):
        assert relative_error(a, truth) < 2 * relative_error(b, truth) + 1e-6, name


@pytest.mark.parametrize(
    ('implementation', 'dtype'),
    [('native', torch.bfloat16), ('blocked', torch.bfloat16), ('blocked', torch.float16)],
    indirect=['implementation'],
)
def test_half_precision_computes_in_float32(dtype, implementation):
    inputs = random_inputs(2, 4, 3, 1, 300, torch.float32)
    half = [x.to(dtype) if i in (0, 1, 3, 4) else x for i, x in enumerate(inputs)]
    cotangent = torch.randn_like(inputs[0])
    y, grads = with_gradients(selective_scan, half, cotangent)
    exact, exact_grads = with_gradients(
        selective_scan_reference, [x.double() for x in half], cotangent.double()
    )
    assert y.dtype == torch.float32
    assert relative_error(y.double(), exact) < 1e-6
    for grad, other, given in zip(grads, exact_grads, half, strict=True):
        assert grad.dtype == given.dtype
        assert relative_error(grad.double(), other) < max(torch.finfo(given.dtype).eps, 1e-6)


def test_what_float16_cannot_hold_does_not_overflow():
    u, delta, *rest = random_inputs(1, 1, 2, 1, 300, torch.float16)
    y = selective_scan(
        30 * u.abs() + 100, delta.abs() + 5, *rest[:1], 50 * rest[1].abs(), *rest[2:]
    )
    assert y.abs().max() > torch.finfo(torch.float16).max
    assert torch.isfinite(y).all()


EXTREMES = {
    'large steps': dict(delta=1e3, A=-1e4),
    'hardly any step': dict(delta=-50.0, A=-1.0),
    'no decay': dict(delta=0.0, A=-1e-30),
    'softplus threshold': dict(delta=20.0, A=-0.5),
}


@pytest.mark.parametrize('case', EXTREMES)
def test_extreme_values_stay_finite(case, implementation):
    u, delta, A, B, C, D, _ = random_inputs(1, 2, 2, 1, 400, torch.float32)
    delta = torch.full_like(delta, EXTREMES[case]['delta'])
    A = torch.full_like(A, EXTREMES[case]['A'])
    assert_same([u, delta, A, B, C, D], limit=2e-5)


@pytest.mark.parametrize('length', [100_000, 262_144])
def test_constants_forever(length, implementation):
    """h goes to dt / (1 - exp(-dt A)): the error may not grow with the length."""
    ones = torch.ones(1, 2, length)
    groups = torch.ones(1, 1, 1, length)
    y = selective_scan(ones, -ones, torch.tensor([[-1.0], [-1e-3]]), groups, groups)
    dt = np.log1p(np.exp(-1.0))
    for channel, a in enumerate((1.0, 1e-3)):
        expected = dt / -np.expm1(-dt * a)
        assert y[0, channel, -1].item() == pytest.approx(expected, rel=2e-5)


@pytest.mark.parametrize(('batch', 'channels', 'state'), [(1, 16, 1), (1, 16, 16), (16, 256, 16)])
def test_memory_kept_for_backward(batch, channels, state, implementation):
    u, *rest = random_inputs(batch, 1, channels, state, 640, torch.float32)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        selective_scan(u.requires_grad_(), *rest)
    extra = [x for x in kept if all(x.data_ptr() != y.data_ptr() for y in (u, *rest))]
    assert sum(x.numel() for x in extra) <= state / 64 * u.numel()


def test_gradcheck(small_segments):
    inputs = [x.requires_grad_() for x in random_inputs(1, 2, 2, 2, 19)]
    assert torch.autograd.gradcheck(selective_scan, inputs)


@needs_torch('2.4', 'opcheck')
def test_is_a_well_behaved_operator(implementation):
    inputs = [x.requires_grad_() for x in random_inputs(1, 2, 2, 1, 19, torch.float32)]
    inputs[0], inputs[1] = (x.detach().unflatten(1, (2, 2)).requires_grad_() for x in inputs[:2])
    library.opcheck(torch.ops.mambaout_mm.selective_scan, (*inputs, True))


@needs_torch('2.4', "before, Dynamo breaks the graph at zip's strict")
@pytest.mark.slow
@pytest.mark.parametrize('backend', ['aot_eager', 'inductor'])
def test_compiles_to_one_graph(backend):
    if backend == 'inductor' and not (shutil.which('g++') or torch.cuda.is_available()):
        pytest.skip('on CPUs Inductor needs a C++ compiler')

    def model(*inputs):
        return (selective_scan(*inputs).sigmoid() ** 2).sum()

    inputs = random_inputs(1, 2, 3, 1, 40)
    results = []
    for function in (model, torch.compile(model, backend=backend, fullgraph=True)):
        leaves = [x.detach().requires_grad_() for x in inputs]
        loss = function(*leaves)
        results.append((loss, *torch.autograd.grad(loss, leaves)))
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('state', [1, 16])
def test_autocast_does_not_reach_inside(state, implementation):
    inputs = random_inputs(1, 2, 3, state, 200, torch.float32)
    cotangent = torch.randn_like(inputs[0])
    plain = with_gradients(selective_scan, inputs, cotangent)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        y, grads = with_gradients(selective_scan, inputs, cotangent)
    for a, b in zip((y, *grads), (plain[0], *plain[1]), strict=True):
        assert torch.equal(a, b)


def test_checkpointing_gives_the_same_gradients(implementation):
    u, delta, *rest = random_inputs(1, 2, 3, 1, 40, torch.float32)
    weight = torch.randn(40, 40, requires_grad=True)

    def layer(u):
        return selective_scan(u @ weight, delta, *rest)

    expected = torch.autograd.grad(layer(u).sum(), weight)[0]
    y = checkpoint(layer, u, use_reentrant=False)
    assert torch.equal(torch.autograd.grad(y.sum(), weight)[0], expected)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(delta=(2, 12, 49)), r'delta has shape \(2, 12, 49\), but u \(2, 12, 50\)'),
        (dict(A=(11, 1)), r'A has shape \(11, 1\)'),
        (dict(B=(2, 5, 1, 50)), r'u of shape \(2, 12, 50\) does not have the 5 groups'),
        (dict(C=(2, 4, 2, 50)), r'C has shape \(2, 4, 2, 50\)'),
        (dict(D=(3,)), r'D has shape \(3,\)'),
        (dict(u=(2, 12)), r'takes u of shape \(b, G, D, L\) or \(b, G \* D, L\)'),
        (dict(u=(2, 12, 0)), 'none of them empty but in b'),
    ],
)
def test_shapes_that_do_not_fit(change, message):
    inputs = dict(zip(NAMES, random_inputs(2, 4, 3, 1, 50), strict=True))
    inputs.update({name: torch.zeros(shape) for name, shape in change.items()})
    with pytest.raises(ValueError, match=message):
        selective_scan(**inputs)


def test_integers_are_refused():
    u, *rest = random_inputs(2, 4, 3, 1, 50)
    with pytest.raises(TypeError, match='u is torch.int64'):
        selective_scan(u.long(), *rest)
