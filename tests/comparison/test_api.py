"""A comparison as a library and as a command, at sizes that take no time."""

import logging
import time
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope

from mambaout_mm.comparison import compare, session
from mambaout_mm.comparison.api import run_comparison
from mambaout_mm.comparison.catalogue import (
    WHOLE_MODELS,
    Network,
    build_backbone,
    entries_of,
)
from mambaout_mm.comparison.counting import count_costs, count_heads
from mambaout_mm.comparison.options import Options
from mambaout_mm.comparison.records import COLUMNS
from mambaout_mm.comparison.sections import cost, growth, receptive_field, sequence
from mambaout_mm.errors import UserError
from mambaout_mm.measure import growth as measure_growth
from mambaout_mm.measure.growth import too_late

NAMES = ['MambaOut-Femto', 'TimmPyramid:convnext_atto']
CONTROL = Network(
    'ViT', 'Attn', dict(type='mambaout_mm.ViT', arch='tiny', pyramid=None, out_indices=(3,))
)
SIZES = [(side, side) for side in (32, 64, 96, 128)]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Small maps, small whole models, a small control, few rounds."""
    monkeypatch.setattr(session, 'CONTROL', CONTROL)
    monkeypatch.setattr(cost, 'count_costs', partial(count_costs, sizes=((64, 64),)))
    monkeypatch.setattr(receptive_field, 'SIDE', 64)
    monkeypatch.setattr(receptive_field, 'IMAGES', 1)
    monkeypatch.setattr(measure_growth, 'ROUNDS', 3)
    for name, (path, _) in list(WHOLE_MODELS.items()):
        monkeypatch.setitem(WHOLE_MODELS, name, (path, (64, 64)))
    count_heads.cache_clear()
    yield
    count_heads.cache_clear()


def run(names, started=None, device='cpu', **options):
    return run_comparison(Options(names, device=device, **options), started=started)


def test_an_interrupted_comparison_goes_on(tmp_path, monkeypatch):
    arguments = dict(sizes=SIZES, device='cpu', out=tmp_path, only=['sequence', 'erf', 'growth'])
    measure_size = growth.measure_size

    def interrupted(series, size, *rest):
        if size == (96, 96):
            raise KeyboardInterrupt
        return measure_size(series, size, *rest)

    monkeypatch.setattr(growth, 'measure_size', interrupted)
    with pytest.raises(KeyboardInterrupt):
        compare(NAMES, **arguments)
    done = len((tmp_path / 'results.jsonl').read_text().splitlines())
    sizes = []

    def noted(series, size, *rest):
        sizes.append(size)
        return measure_size(series, size, *rest)

    monkeypatch.setattr(growth, 'measure_size', noted)
    found = run(NAMES, **arguments)
    assert sizes == [(96, 96), (128, 128)]
    assert found.reused == done == 2
    monkeypatch.setattr(receptive_field, 'erf_maps', None)  # not called again
    found = run(NAMES, **arguments)
    assert found.reused == 4 + 3 + 3
    maps = found.extras['receptive field']
    assert {erf.backbone for erf in maps} == {*NAMES, 'ViT'}
    fits = found.frame[found.frame['quantity'] == 'exponent of time']
    assert fits['value'].notna().all()


def test_other_sizes_dtypes_or_backbones_are_measured_anew(tmp_path):
    def reused(names, sizes, dtype='fp32'):
        return run(names, dtype=dtype, sizes=sizes, only=['growth'], out=tmp_path).reused

    assert reused(NAMES[:1], SIZES[:1]) == 0
    assert reused(NAMES[:1], SIZES[:1]) == 1
    assert reused(NAMES[:1], SIZES[1:2]) == 0
    assert reused(NAMES[:1], SIZES[:1], 'bf16') == 0
    assert reused(NAMES[1:], SIZES[:1]) == 0


def test_maps_are_those_of_the_weights_in_question(tmp_path):
    arguments = dict(device='cpu', out=tmp_path, only=['erf'])
    (entry,) = entries_of(NAMES[:1])
    file = tmp_path / 'weights.pth'
    for number, weights in enumerate(({}, {entry.name: str(file)}, {}, {entry.name: str(file)})):
        if number == 1:
            torch.save(build_backbone(entry).state_dict(), file)
        found = run(NAMES[:1], checkpoints=weights, **arguments)
        assert found.reused == (0, 1, 2, 2)[number]
        shown = {erf.backbone: erf.weights for erf in found.extras['receptive field']}
        assert shown[entry.name] == (str(file) if weights else 'random')
    torch.save(build_backbone(entry).double().state_dict(), file)
    assert run(NAMES[:1], checkpoints=weights, **arguments).reused == 1


def test_what_time_did_not_allow_is_measured_when_it_does(tmp_path):
    arguments = dict(device='cpu', out=tmp_path, only=['growth'], sizes=SIZES)
    first = compare(NAMES, budget=0.001, **arguments)
    notes = set(first[first['value'].isna() & (first['size'] != '')]['note'])
    assert notes == {too_late()}
    assert compare(NAMES, **arguments)['value'].notna().all()


def test_the_curves_come_first_and_the_rest_while_there_is_time(tmp_path, monkeypatch):
    """Some steps take minutes, by a clock that the test moves."""
    real, moved = time.perf_counter, 0.0
    began = []

    def slowly(function, seconds):
        def slow(entry, *rest, **options):
            nonlocal moved
            moved += seconds
            began.append(function.__name__)
            return function(entry, *rest, **options)

        return slow

    monkeypatch.setattr(time, 'perf_counter', lambda: real() + moved)
    monkeypatch.setattr(growth, 'check_parity', slowly(growth.check_parity, 20))
    monkeypatch.setattr(sequence, 'sequence_records', slowly(sequence.sequence_records, 60))
    monkeypatch.setattr(receptive_field, 'erf_maps', slowly(receptive_field.erf_maps, 80))
    start = time.perf_counter()
    frame = compare(NAMES, device='cpu', sizes=SIZES, budget=400, out=tmp_path)
    assert time.perf_counter() - start < 400
    # A second map would have ended after 400 seconds
    assert began == ['check_parity'] * 3 + ['sequence_records'] * 3 + ['erf_maps']
    assert frame[frame['section'] == 'growth']['value'].notna().all()
    late = frame[frame['section'] == 'receptive field']
    late = late[late['quantity'] == 'all'].set_index('backbone')['note']
    assert late.to_dict() == dict.fromkeys([NAMES[1], 'ViT'], too_late())
    # With more time, only what was left out
    began.clear()
    frame = compare(NAMES, device='cpu', sizes=SIZES, budget=3000, out=tmp_path)
    assert began == ['check_parity'] * 3 + ['erf_maps'] * 2
    assert not (frame['note'] == too_late()).any()


def test_a_budget_that_is_over_before_the_curves(monkeypatch):
    """As where importing took all of it."""
    frame = run(
        NAMES,
        started=time.perf_counter() - 60,
        sizes=SIZES,
        only=['cost', 'growth', 'sequence'],
        budget=10,
    ).frame
    recorded = (frame['section'] == 'cost') & (frame['backbone'] == NAMES[0])
    assert frame[recorded]['value'].notna().all()
    assert frame[~recorded]['value'].isna().all()
    assert set(frame[~recorded]['note']) == {too_late('measured'), too_late('computed')}


def test_a_check_counts_all_costs_whatever_the_time():
    frame = run(
        NAMES, started=time.perf_counter() - 60, only=['cost'], budget=1, count_anew=True
    ).frame
    assert frame[frame['backbone'].isin(NAMES)]['value'].notna().all()


def test_a_comparison_leaves_the_process_as_it_was():
    logger = MMLogger.get_current_instance()
    logger.setLevel('INFO')
    with DefaultScope.overwrite_default_scope('mmseg'):
        torch.manual_seed(7)
        expected = torch.rand(3)
        torch.manual_seed(7)
        compare(NAMES[:1], device='cpu', sizes=SIZES[:1], only=['cost', 'growth', 'erf'])
        assert torch.equal(torch.rand(3), expected)
        assert DefaultScope.get_current_instance().scope_name == 'mmseg'
    assert logger.level == logging.INFO
    assert MMLogger.get_current_instance() is logger


def test_a_backbone_that_fails_is_a_row_and_not_an_end():
    frame = compare(
        ['MambaOut:huge', NAMES[0]], device='cpu', sizes=SIZES[:1], only=['sequence', 'growth']
    )
    failed = frame[frame['backbone'] == 'MambaOut:huge']
    assert len(failed) and failed['value'].isna().all()
    assert failed['note'].str.contains('MambaOut:huge cannot be built').all()
    others = frame[(frame['backbone'] == NAMES[0]) & (frame['quantity'] == 'time')]
    assert others['value'].notna().all()


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(dtype='fp8'), "'fp8' is no dtype here; there are fp32, bf16"),
        (dict(device='cuda:1'), "'cuda:1' is no device here; there are cpu, cuda"),
        (dict(only=['speed']), "'speed' is no section here; there are cost, sequence"),
        (dict(checkpoints={'Swin-S': 'a.pth'}), "'Swin-S' is no backbone with a checkpoint here"),
    ],
)
def test_arguments_that_name_nothing(arguments, message):
    with pytest.raises(UserError, match=message):
        compare(**arguments)


def test_the_command_leaves_tables_pictures_and_a_page(run_tool, tmp_path):
    code, out, err = run_tool(
        'compare.py', '--out', tmp_path, '--device', 'cpu', '--backbones', *NAMES,
        '--sizes', '32', '64', '96', '128', '--train',
    )  # fmt: skip
    assert code == 0, err
    assert {path.name for path in tmp_path.iterdir()} == {
        'table.csv', 'table.md', 'report.html', 'results.jsonl', 'erf',
        'growth.png', 'sequence.png', 'erf.png', 'published.png', 'gap.png',
    }  # fmt: skip
    text = (tmp_path / 'table.md').read_text()
    for title in ('Summary', 'Cost', 'Sequence', 'Receptive field', 'Growth'):
        assert f'## {title}\n' in text
    for name in NAMES:
        assert name in out and name in text
    check_frame(pd.read_csv(tmp_path / 'table.csv', keep_default_na=False, na_values=['nan']))
    again = ('compare.py', '--out', tmp_path, '--only', 'sequence', '--backbones', *NAMES)
    assert '3 results were there from an earlier run' in run_tool(*again)[1]


def check_frame(frame):
    assert tuple(frame.columns) == COLUMNS
    assert list(dict.fromkeys(frame['section'])) == [
        'cost', 'sequence', 'receptive field', 'growth', 'published',
    ]  # fmt: skip
    assert not frame[frame['value'].isna()]['note'].eq('').any(), 'an empty cell says why'
    origins = frame.groupby('section')['origin'].agg(set)
    assert origins['published'] == {'published'} and origins['growth'] == {'measured'}
    assert set(frame[frame['section'] == 'growth']['setting']) == {
        'forward, fp32',
        'forward+backward, fp32',
    }
    fits = frame[frame['quantity'] == 'exponent of time']
    assert len(fits) == 2 * 3 and fits['value'].notna().all()


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (
            ['--only', 'sequence', '--backbones', 'MambaOut:huge', NAMES[0]],
            'MambaOut:huge: failed: MambaOut:huge cannot be built',
        ),
        (
            ['--only', 'erf', '--backbones', NAMES[0], '--checkpoints', f'{NAMES[0]}=nowhere.pth'],
            f"{NAMES[0]}: failed: MambaOut cannot start from 'nowhere.pth': there is no checkpoint",
        ),
    ],
)
def test_the_command_fails_where_a_backbone_does_and_says_why(
    arguments, message, run_tool, tmp_path
):
    code, out, _ = run_tool('compare.py', '--out', tmp_path, '--device', 'cpu', *arguments)
    assert code == 1
    assert message in out
    assert (tmp_path / 'table.csv').exists()


def test_the_check_fails_where_costs_are_not_the_published_ones(run_tool, tmp_path):
    code, out, _ = run_tool(
        'compare.py', '--out', tmp_path, '--only', 'cost', '--check', '--backbones', 'MambaOut-T'
    )
    assert code == 1  # the whole models of these tests are those of 64x64
    assert 'check: MambaOut-T, Mask R-CNN: MACs' in out and 'published 262' in out


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--sizes', '1' + 40 * '0'], 'is too large; images end at 10,000,000'),
        (['--sizes', '16'], "'16' is too small; images start at 32x32"),
        (['--budget', '0'], '--budget 0 must be above 0 seconds'),
        (['--only', 'growth', '--check'], '--check compares costs: add cost to --only'),
        (['--checkpoints', 'a.pth'], "'a.pth' is no BACKBONE=CHECKPOINT"),
        (['--only', 'speed'], "'speed' is no section here"),
        (['--runs', 'no/such/folder'], "'no/such/folder'"),
        (['--runs', 'a', '--only', 'cost'], 'the section runs is not among those asked for'),
        (['--only', 'runs'], 'no runs are given'),
    ],
)
def test_bad_arguments_are_refused_in_a_sentence(arguments, message, run_tool, tmp_path):
    code, _, err = run_tool('compare.py', '--out', tmp_path, *arguments)
    assert code != 0
    assert message in err


def test_a_full_disk_ends_no_measurement_and_is_told_at_the_end(run_tool, tmp_path, small_disk):
    code, out, err = run_tool(
        'compare.py', '--out', tmp_path, '--device', 'cpu', '--backbones', *NAMES,
        '--only', 'sequence,growth', '--sizes', '32', '64',
    )  # fmt: skip
    assert code == 1, err
    for name in ('report.html', 'growth.png', 'sequence.png'):
        assert f"{name}' cannot be written: " in out
    assert f'written: {tmp_path}/table.md' in out
    assert 'results cannot be added to' in out
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {'table.md', 'results.jsonl'}, 'table.csv is larger than the disk'
    again = run_tool('compare.py', '--out', tmp_path, '--only', 'sequence', '--backbones', *NAMES)
    assert 'cannot be read' not in again[1]


@pytest.mark.parametrize('file', ['table.csv', 'growth.png'])
def test_one_file_that_cannot_be_written_does_not_stop_the_others(file, run_tool, tmp_path):
    (tmp_path / file).mkdir()
    code, out, _ = run_tool(
        'compare.py', '--out', tmp_path, '--device', 'cpu', '--backbones', NAMES[0],
        '--only', 'growth', '--sizes', '32',
    )  # fmt: skip
    assert code == 1
    assert f"{file}' cannot be written: Is a directory" in out
    for name in {'table.csv', 'table.md', 'report.html', 'growth.png'} - {file}:
        assert (tmp_path / name).is_file()


def test_a_folder_that_cannot_be_used_is_told_before_anything_is_measured(run_tool, tmp_path):
    (tmp_path / 'file').write_text('')
    for out in (tmp_path / 'file', tmp_path / 'file' / 'below'):
        code, shown, err = run_tool('compare.py', '--out', out)
        assert (code, shown.strip()) == (1, '')
        assert f"--out '{out}' cannot be used: '{tmp_path / 'file'}' is a file" in err


@pytest.mark.parametrize('how', ['cut', 'damaged', 'other', 'empty', 'pickled', 'infinite'])
def test_maps_that_were_damaged_are_made_anew(how, tmp_path, monkeypatch):
    values = np.random.default_rng(0).random((64, 64), np.float32)

    def erf_maps(entry, *rest):
        return [
            receptive_field.ErfMap(entry.name, stage, '64x64', 'random', values) for stage in (1, 2)
        ]

    monkeypatch.setattr(receptive_field, 'erf_maps', erf_maps)
    arguments = dict(device='cpu', out=tmp_path, only=['erf'])
    expected = run(NAMES[:1], **arguments)
    (path,) = (tmp_path / 'erf').glob('MambaOut-Femto-*.npz')
    whole = path.read_bytes()
    with np.load(path) as file:
        content = dict(file)
    if how == 'cut':
        path.write_bytes(whole[: len(whole) // 2])
    elif how == 'damaged':
        path.write_bytes(whole[:900] + b'damaged' + whole[907:])
    elif how == 'empty':
        path.write_bytes(b'')
    else:
        wrong = {'other': np.zeros((3, 3)), 'infinite': np.full((64, 64), np.inf)}
        wrong = wrong.get(how, np.array([dict()]))
        np.savez(path, **content | dict(stage1=wrong))
    with pytest.warns(UserWarning, match=f'{path} cannot be read and is made anew'):
        frame = compare(NAMES[:1], **arguments)
    pd.testing.assert_frame_equal(frame, expected.frame)
    with np.load(path) as file:
        assert all(np.array_equal(file[name], array) for name, array in content.items())
    again = run(NAMES[:1], **arguments)
    assert (again.reused, again.remade) == (2, [])
    assert len(again.extras['receptive field']) == 4


@pytest.mark.parametrize(
    ('sizes', 'train'), [(['100000x100000'], ()), (['32', '9999999x9999999'], ('--train',))]
)
def test_a_size_that_no_memory_holds_is_a_row(sizes, train, run_tool, tmp_path):
    code, out, err = run_tool(
        'compare.py', '--out', tmp_path, '--device', 'cpu', '--backbones', NAMES[0],
        '--only', 'growth', '--sizes', *sizes, *train,
    )  # fmt: skip
    assert code == 0, out + err
    frame = pd.read_csv(tmp_path / 'table.csv')
    rows = frame[frame['size'] == sizes[-1]]
    assert len(rows) and rows['value'].isna().all()
    assert rows['note'].str.startswith('out of memory: about ').all()
