"""Trainings of the probe."""

import csv
import importlib.util
import json

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from support import ROOT

from mambaout_mm import MambaOut
from mambaout_mm.errors import UserError
from mambaout_mm.probe import run
from mambaout_mm.probe.report import effects, over_seeds
from mambaout_mm.probe.run import Settings, data_of

spec = importlib.util.spec_from_file_location('probe_tool', ROOT / 'tools' / 'probe.py')
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)
BODY = dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32))
SETTINGS = Settings(
    size=64, distances=(0.25, 0.5), distractors=1, iterations=4, batch=2, test_images=2
)


def build():
    return MambaOut(BODY)


def run_probe(build, settings, seed, folder):
    data, tests = data_of(settings, seed), run.tests_of(settings)
    return run.run_probe(build, settings, seed, folder, data, tests)


def test_the_same_seed_gives_the_same_scores(tmp_path):
    one, two = (run_probe(build, SETTINGS, 0, tmp_path / name) for name in 'ab')
    other = run_probe(build, SETTINGS, 1, tmp_path / 'c')
    assert one['effective_px'] == two['effective_px'] != other['effective_px']
    assert one['iou'] == two['iou'] and len(one['iou']) == 2
    assert all(0 <= iou <= 1 for iou in one['iou'])


def test_an_interrupted_training_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    run_probe(build, SETTINGS, 0, tmp_path / 'whole')
    make_runner = run.make_runner

    def interrupted(*args):
        runner = make_runner(*args)
        runner.default_interval = 2
        for hook in runner.hooks:
            if type(hook).__name__ == 'CheckpointHook':
                hook.interval = 2
        step = runner.model.train_step

        def train_step(*args, **kwargs):
            if runner.iter == 3:
                raise KeyboardInterrupt
            return step(*args, **kwargs)

        runner.model.train_step = train_step
        return runner

    with monkeypatch.context() as patch:
        patch.setattr(run, 'make_runner', interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_probe(build, SETTINGS, 0, tmp_path / 'parts')
    assert not (tmp_path / 'parts' / run.DONE).exists()
    run_probe(build, SETTINGS, 0, tmp_path / 'parts')
    whole, parts = (
        torch.load(tmp_path / name / 'iter_4.pth', weights_only=False)['state_dict']
        for name in ('whole', 'parts')
    )
    for name, tensor in whole.items():
        assert torch.equal(tensor, parts[name]), name


def test_a_finished_training_is_not_repeated(tmp_path):
    first = run_probe(build, SETTINGS, 0, tmp_path / 'run')
    written = (tmp_path / 'run' / run.DONE).stat().st_mtime_ns
    assert run_probe(build, SETTINGS, 0, tmp_path / 'run') == first
    assert (tmp_path / 'run' / run.DONE).stat().st_mtime_ns == written


def test_what_is_in_a_folder_is_never_replaced(tmp_path):
    run_probe(build, SETTINGS, 0, tmp_path / 'probe')
    (tmp_path / 'other').mkdir()
    kept = tmp_path / 'other' / 'epoch_12.pth'
    kept.write_text('weights of another training')
    longer = SETTINGS._replace(iterations=6)
    for folder, settings in (('probe', longer), ('other', SETTINGS)):
        with pytest.raises(UserError, match='holds something else than this training'):
            run_probe(build, settings, 0, tmp_path / folder)
    assert kept.exists() and (tmp_path / 'probe' / 'iter_4.pth').exists()


def test_the_tool_writes_a_row_for_each_distance_and_a_picture(tmp_path, capsys):
    tool.main([
        '--mixers', 'identity', 'ssm', '--backbones', 'Vim:tiny',
        '--depths', '1', '1', '1', '1', '--dims', '8', '16', '24', '32',
        '--size', '64', '--distances', '0.5', '0.25', '--distractors', '1',
        '--iterations', '2', '--batch', '2', '--test-images', '2', '--seeds', '2',
        '--out', str(tmp_path),
    ])  # fmt: skip
    with (tmp_path / 'probe.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert [(row['network'], row['seed'], row['distance_px']) for row in rows] == [
        (network, seed, distance)
        for seed in '01'
        for network in ('identity', 'ssm', 'Vim-Ti')
        for distance in ('16', '32')
    ]
    costs = {row['network']: float(row['macs_m']) for row in rows}
    assert costs['identity'] == pytest.approx(costs['ssm'], rel=0.02)
    assert float(rows[0]['theoretical_px']) < 200 and rows[2]['theoretical_px'] == 'inf'
    assert (tmp_path / 'probe.png').stat().st_size > 10_000
    results = sorted(tmp_path.glob('*/*/result.json'))
    assert len(results) == 6 and all(json.loads(path.read_text()) for path in results)
    assert 'identity' in capsys.readouterr().out
    with (tmp_path / 'effects.csv').open() as file:
        written = list(csv.DictReader(file))
    assert [(row['network'], row['distance_px']) for row in written] == [
        (network, distance) for network in ('ssm', 'Vim-Ti') for distance in ('16', '32')
    ]
    of = {(row['network'], row['seed'], row['distance_px']): float(row['iou']) for row in rows}
    both = [of['ssm', seed, '16'] - of['identity', seed, '16'] for seed in '01']
    assert float(written[0]['effect']) == pytest.approx(sum(both) / 2, abs=1e-3)
    assert float(written[0]['low']) <= min(both) + 1e-3


def test_an_interval_over_seeds():
    mean, low, high, p = over_seeds([1.0, 2.0, 3.0])
    reach = 4.3027 / 3**0.5  # Student's with two degrees of freedom
    assert (mean, low, high) == pytest.approx((2, 2 - reach, 2 + reach), abs=1e-4)
    assert p == pytest.approx(stats.ttest_1samp([1.0, 2.0, 3.0], 0).pvalue)
    assert over_seeds([0.0, 0.0])[3] == 1 and over_seeds([0.5, 0.5])[3] == 0
    assert np.isnan(over_seeds([1.0])[1:]).all()


def test_effects_are_corrected_for_all_networks_and_distances():
    scores = {'conv': (0.5, 0.5, 0.5), 'ssm': (0.61, 0.6, 0.62), 'identity': (0.5, 0.3, 0.45)}
    rows = pd.DataFrame(
        dict(network=network, seed=seed, distance=distance, iou=iou + distance / 10 * seed, size=64)
        for network, seeds in scores.items()
        for seed, iou in enumerate(seeds)
        for distance in (0.25, 0.5)
    )
    found = effects(rows)
    assert [row['network'] for row in found] == ['ssm', 'ssm', 'identity', 'identity']
    smallest = stats.ttest_1samp((0.11, 0.1, 0.12), 0).pvalue
    assert found[0]['p'] == pytest.approx(smallest)
    assert found[0]['p_holm'] == pytest.approx(4 * smallest)
    assert found[2]['p_holm'] == pytest.approx(2 * found[2]['p'])
    alone = effects(rows[rows['seed'] == 0])
    assert all(np.isnan(row['p']) and np.isnan(row['p_holm']) for row in alone)


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['--distances', '1.5'], 'above 0 and at most 1'),
        (['--size', '32'], '--size 32 is too small'),
        (['--seeds', '0'], '--seeds must be at least 1'),
    ],
)
def test_wrong_arguments_are_named(arguments, message, capsys):
    with pytest.raises(SystemExit):
        tool.main(arguments)
    assert message in capsys.readouterr().err
