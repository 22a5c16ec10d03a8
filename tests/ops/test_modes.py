"""Operators run by their definitions where that is asked for, and only there."""

import pytest
import torch

from mambaout_mm.ops import gated_cnn, selective_scan
from mambaout_mm.ops.modes import by_definition, counting, references, without_results


@pytest.mark.parametrize(
    ('mode', 'in_force'), [(references, by_definition), (counting, without_results)]
)
def test_a_mode_ends_with_its_block_also_after_an_error(mode, in_force):
    assert not in_force()
    with pytest.raises(KeyError), mode():
        assert in_force()
        with mode():
            pass
        assert in_force()
        raise KeyError
    assert not in_force()


def test_a_scan_that_is_counted_has_a_shape_and_no_result():
    inputs = [torch.rand(s) for s in [(1, 4, 5), (1, 4, 5), (4, 2), (1, 2, 2, 5), (1, 2, 2, 5)]]
    y = selective_scan.selective_scan(*inputs)
    with counting():
        nothing = selective_scan.selective_scan(*inputs)
    assert (nothing.shape, nothing.dtype) == (y.shape, y.dtype)
    assert nothing.abs().sum() == 0 < y.abs().sum()


@pytest.mark.parametrize(
    ('operator', 'fast_path', 'shapes', 'rest'),
    [
        (
            gated_cnn.gated_cnn,
            gated_cnn.Strips,
            [(1, 2, 3, 6), (6,), (6,), (8, 6), (8,), (2, 1, 3, 3), (2,), (6, 4), (6,)],
            ('gelu', 1e-6),
        ),
        (
            selective_scan.selective_scan,
            selective_scan.blocked,
            [(1, 4, 5), (1, 4, 5), (4, 2), *[(1, 2, 2, 5)] * 2],
            (),
        ),
    ],
    ids=['gated_cnn', 'selective_scan'],
)
def test_no_fast_path_is_taken_by_definition_or_in_forward_mode(
    operator, fast_path, shapes, rest, monkeypatch
):
    inputs = [torch.rand(shape, dtype=torch.float64) for shape in shapes]
    fast = operator(*inputs, *rest)

    def no_fast_path(*_, **__):
        raise AssertionError('a fast path was taken')

    monkeypatch.setattr(fast_path, 'forward', no_fast_path)
    with pytest.raises(AssertionError, match='a fast path was taken'):
        operator(*inputs, *rest)
    with references():
        torch.testing.assert_close(operator(*inputs, *rest), fast)
    tangents = tuple(map(torch.ones_like, inputs))
    y, tangent = torch.func.jvp(lambda *given: operator(*given, *rest), tuple(inputs), tangents)
    torch.testing.assert_close(y, fast)
    monkeypatch.undo()
    step = [1e-6 * x for x in tangents]
    there, back = (
        operator(*(x + sign * h for x, h in zip(inputs, step, strict=True)), *rest)
        for sign in (1, -1)
    )
    torch.testing.assert_close(tangent, (there - back) / 2e-6, rtol=1e-5, atol=1e-6)
