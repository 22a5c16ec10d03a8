"""The benchmark of the C kernels, at a size that takes no time."""

import pytest

from mambaout_mm.ops import native

pytestmark = pytest.mark.skipif(
    native.kernels() is None, reason=f'C kernels: {native.description()}'
)
ARGUMENTS = '--rounds', 2, '--size', 64, 64


@pytest.mark.parametrize('script', ['native'], indirect=True)
def test_writes_a_row_for_each_pass(script):
    rows = script.run(*ARGUMENTS, '--networks', 'MambaOut-T', 'VMamba-T', '--load')
    assert [(row['network'], row['what']) for row in rows] == [
        (name, what)
        for name in ('MambaOut-T', 'VMamba-T')
        for what in ('inference', 'forward+backward')
    ]
    for row in rows:
        ratio = float(row['torch_ms_median']) / float(row['native_ms_median'])
        assert float(row['torch_over_native']) == pytest.approx(ratio, rel=1e-2)
        assert bool(row['timm_over_native']) == (row['network'] == 'MambaOut-T')
        assert row['load'] == 'True' and row['c_kernels'].startswith('in use')


@pytest.mark.parametrize('script', ['native'], indirect=True)
def test_what_is_wrong_is_not_timed(script, tmp_path, monkeypatch):
    from mambaout_mm.ops.selective_scan import native as scan

    forward = scan.forward
    monkeypatch.setattr(
        scan, 'forward', lambda *args: (forward(*args)[0] * 1.5, *forward(*args)[1:])
    )
    with pytest.raises(SystemExit, match='VMamba-T in fp32 failed: .* nothing is timed'):
        script.run(*ARGUMENTS, '--networks', 'VMamba-T', '--what', 'inference')
    assert not (tmp_path / 'native.csv').exists()
