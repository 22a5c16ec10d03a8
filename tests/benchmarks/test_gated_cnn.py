"""The benchmark of Gated CNN blocks, at a size that takes no time."""

import pytest
import torch


@pytest.mark.parametrize('script', ['gated_cnn'], indirect=True)
def test_writes_two_rows_for_each_dtype(script):
    rows = script.run('--rounds', 2, '--case', 9, 8, 8, 21)
    passes = ['forward', 'forward+backward']
    assert [(row['part'], row['dtype'], row['what']) for row in rows] == [
        ('branch', dtype, what) for dtype in ('fp32', 'bf16') for what in passes
    ]
    for row in rows:
        assert float(row['op_ms_median']) > 0 and float(row['plain_over_op']) > 0


@pytest.mark.parametrize('script', ['gated_cnn'], indirect=True)
def test_the_share_of_the_copy_rate_is_that_of_the_bytes_to_move(script):
    tensors = [torch.zeros(200_000)]  # long enough for the table's four decimals
    work = script.module.Work(lambda x: (x.exp(),), lambda x: (x,), tensors, moved=4_000_000)
    row = script.module.benchmark(work, 2, 'cpu')
    expected = row['copy_ms_median'] / row['op_ms_median']
    assert row['share_of_copy_rate'] == pytest.approx(expected, rel=0.2)


@pytest.mark.parametrize('script', ['gated_cnn'], indirect=True)
def test_what_is_wrong_is_not_timed(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script.module, 'gated_cnn', lambda x, *others: x + 1 + 0 * sum(
        other.sum() for other in others if isinstance(other, torch.Tensor)
    ))  # fmt: skip
    with pytest.raises(SystemExit, match='is wrong by .* nothing is timed'):
        script.run('--rounds', 2, '--case', 9, 8, 8, 21)
    assert not (tmp_path / 'gated_cnn.csv').exists()
