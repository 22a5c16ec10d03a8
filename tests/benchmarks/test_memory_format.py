"""The benchmark of memory formats, at a size that takes no time."""

import pytest
from support_models import small_config


@pytest.mark.parametrize('model', ['maskrcnn', 'upernet'])
@pytest.mark.parametrize('script', ['memory_format'], indirect=True)
def test_writes_a_row_for_each_layout(model, script, tmp_path, monkeypatch):
    config = small_config(model, tmp_path)
    monkeypatch.setattr(script.module, 'find_model_config', lambda name, arch: config)
    rows = script.run('--rounds', 2, '--models', model, '--size', 64, 64)
    passes = ['inference', 'forward+backward']
    assert [(row['what'], row['layout']) for row in rows] == [
        (what, layout) for what in passes for layout in ('contiguous', 'channels_last')
    ]
    for row in rows:
        assert float(row['median_ms']) > 0 and float(row['over_channels_last']) > 0
