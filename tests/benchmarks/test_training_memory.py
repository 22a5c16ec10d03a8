"""The count of what a training keeps, at a size that takes no time."""

import pytest
from support_models import small_config


@pytest.mark.parametrize('model', ['maskrcnn', 'upernet'])
@pytest.mark.parametrize('script', ['training_memory'], indirect=True)
def test_each_setting_saves_memory(model, script, tmp_path, monkeypatch):
    config = small_config(model, tmp_path)
    monkeypatch.setattr(script.module, 'find_model_config', lambda name, arch: config)
    rows = script.run('--models', model, '--size', 64, 64, '--batches', 2)
    assert [(row['amp'], row['with_cp'], row['frozen_stages']) for row in rows] == [
        ('False', 'False', '-1'),
        ('False', 'True', '-1'),
        ('True', 'False', '-1'),
        ('True', 'True', '-1'),
        ('True', 'True', '2'),
    ]
    kept = [int(row['kept_mb']) for row in rows]
    fixed = [int(row['weights_and_optimizer_mb']) for row in rows]
    assert kept[1] < kept[0]  # of so small images mixed precision keeps more: weights, cast
    assert len(set(fixed[:4])) == 1 and fixed[4] < fixed[3]
    assert all(int(r['together_mb']) == pytest.approx(k + f, abs=1)
               for r, k, f in zip(rows, kept, fixed, strict=True))  # fmt: skip
