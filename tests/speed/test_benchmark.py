"""The speed benchmark at a size that takes no time."""

import csv
import importlib.util
import math

import pytest
import torch
from support import ROOT
from support_models import small_config

from mambaout_mm.backbones import gated_blocks
from mambaout_mm.errors import UserError
from mambaout_mm.ops import products
from mambaout_mm.ops.products import has_onednn
from mambaout_mm.speed import benchmark, candidates
from mambaout_mm.speed.cases import Case
from mambaout_mm.speed.whole_models import find_model_config

spec = importlib.util.spec_from_file_location('benchmark_tool', ROOT / 'tools' / 'benchmark.py')
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)
SMALL = ['--arch', 'femto', '--sizes', '32x64', '--rounds', '3', '--device', 'cpu']


@pytest.fixture(autouse=True)
def rates(request, monkeypatch):
    """Stand for the machine's rates, which take seconds to measure; one test measures them."""
    if request.node.name != 'test_writes_a_row_for_each_form_and_a_plot':
        monkeypatch.setattr(benchmark, 'copy_rate', lambda device: 1e10)
        monkeypatch.setattr(benchmark, 'matmul_rate', lambda device, dtype: 1e11)


def run(tmp_path, *arguments):
    tool.main([*SMALL, *arguments, '--out', str(tmp_path)])
    with (tmp_path / 'speed.csv').open() as file:
        return list(csv.DictReader(file))


def test_writes_a_row_for_each_form_and_a_plot(tmp_path):
    rows = run(tmp_path, '--what', 'inference', 'step', '--dtypes', 'fp32')
    forms = ['ours', 'timm', 'timm channels_last', 'timm onednn']
    assert [(row['what'], row['form']) for row in rows] == [
        (what, form) for what in ('inference', 'step') for form in forms
    ]
    if not has_onednn(torch.float32):
        rows = [row for row in rows if row['form'] != 'timm onednn']
    for row in rows:
        ours = next(r for r in rows if r['what'] == row['what'])
        assert float(row['p10_ms']) <= float(row['median_ms']) <= float(row['p90_ms'])
        ratio = float(row['median_ms']) / float(ours['median_ms'])
        assert math.isclose(float(row['over_ours']), ratio, abs_tol=1e-2)
        assert float(row['parity']) < 1e-3
        assert 0 < float(row['share_of_floor']) < 1
        assert not row['status'] and row['device'] and row['torch'] == torch.__version__
    assert (tmp_path / 'speed.png').stat().st_size > 10_000


def test_less_is_kept_for_the_backward_pass_than_timm_keeps(tmp_path):
    ours, theirs = run(
        tmp_path, '--what', 'forward+backward', '--dtypes', 'fp32', '--forms', 'ours', 'timm'
    )
    assert float(ours['kept_mb']) < 0.6 * float(theirs['kept_mb'])


def test_what_a_case_does_not_have_says_so(tmp_path):
    rows = run(tmp_path, '--dtypes', 'fp32', '--what', 'inference', '--forms', 'ours', 'ours graph')
    assert rows[1]['median_ms'] == ''
    assert rows[1]['status'] == 'not measured: CUDA graphs are for inference on CUDA'


@pytest.mark.skipif(not has_onednn(torch.float32), reason='PyTorch has no oneDNN products here')
def test_onednn_runs_timms_linear_layers_in_both_passes(tmp_path, monkeypatch):
    calls = []
    for name in ('linear', 'matmul_over_rows'):
        product = getattr(products, name)
        monkeypatch.setattr(products, name, lambda *args, f=product: calls.append(f) or f(*args))
    fp32, bf16 = run(tmp_path, '--what', 'forward+backward', '--forms', 'timm onednn')
    assert not fp32['status'] and len(set(calls)) == 2
    assert bf16['status'] == 'not measured: oneDNN runs the linear layers anyway, or cannot'


def test_what_fails_parity_is_not_timed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gated_blocks, 'LN_EPS', 0.1)
    with pytest.raises(SystemExit) as caught:
        run(tmp_path, '--dtypes', 'fp32')
    assert 'ours is wrong by' in str(caught.value) + capsys.readouterr().err
    assert not (tmp_path / 'speed.csv').exists()


def test_weights_of_both_are_the_same():
    pair = candidates.backbones('femto')
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        for a, b in zip(pair['ours'](image), pair['timm'](image), strict=True):
            torch.testing.assert_close(a.permute(0, 2, 3, 1), b, rtol=1e-4, atol=1e-5)


def test_a_variant_that_timm_lacks_is_refused():
    with pytest.raises(UserError, match='timm has no mambaout_huge; it has mambaout_base,'):
        candidates.backbones('huge')


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--sizes', '16'], "'16' is too small; images start at 32x32"),
        (['--sizes', '8x8x8'], "'8x8x8' is no size; write 512 or 800x1280"),
        (['--rounds', '2'], '--rounds must be at least 3'),
        (['--batch', '0'], '--batch must be at least 1'),
    ],
)
def test_bad_arguments_are_refused_in_a_sentence(arguments, message, capsys):
    with pytest.raises(SystemExit):
        tool.main(arguments)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize('model', ['maskrcnn', 'upernet'])
def test_a_whole_model_takes_an_iteration_over_both(model, tmp_path, monkeypatch):
    config = small_config(model, tmp_path)
    monkeypatch.setattr(candidates, 'find_model_config', lambda name, arch: config)
    rows = run(
        tmp_path, '--models', model, '--batch', '2', '--what', 'step', '--dtypes', 'fp32',
        '--forms', 'ours', 'timm',
    )  # fmt: skip
    assert [row['form'] for row in rows] == ['ours', 'timm']
    assert all(float(row['parity']) < 1e-3 for row in rows)


def test_the_configs_of_whole_models_are_found_by_name():
    assert find_model_config('maskrcnn', 't').name == 'maskrcnn_mambaout_t.py'
    assert find_model_config('upernet', 'femto').parent.name == 'segmentation'
    with pytest.raises(UserError, match='upernet_mambaout_huge.py'):
        find_model_config('upernet', 'huge')


def test_a_case_that_no_memory_holds_is_a_row(tmp_path, monkeypatch):
    arguments = ['--arch', 'femto', '--rounds', '3', '--device', 'cpu', '--dtypes', 'fp32']
    arguments += ['--what', 'inference', '--forms', 'ours', 'timm', '--out', str(tmp_path)]
    tool.main([*arguments, '--sizes', '100000x100000', '32'])
    with (tmp_path / 'speed.csv').open() as file:
        *large, ours, timms = csv.DictReader(file)
    assert [row['form'] for row in large] == ['ours', 'timm']
    for row in large:
        assert row['status'].startswith('not measured: out of memory: about ')
    assert ours['median_ms'] and timms['median_ms']


def test_what_torch_says_on_a_cpu_is_a_row(monkeypatch):
    def lacking(*arguments):
        torch.empty(1 << 50)

    monkeypatch.setattr(benchmark, 'prepare', lacking)
    case = Case('backbone', 'inference', 32, 32, 1, 'fp32')
    (row,) = benchmark.time_case('femto', case, ['ours'], 3, 1.0, 'cpu')
    assert row['status'] == 'not measured: out of memory'


def test_files_that_cannot_be_written_are_told_when_all_is_timed(tmp_path, capsys):
    for name in ('speed.csv', 'speed.png'):
        (tmp_path / name).mkdir()
    with pytest.raises(SystemExit) as end:
        run(tmp_path, '--what', 'inference', '--dtypes', 'fp32', '--forms', 'timm')
    for name in ('speed.csv', 'speed.png'):
        assert f"{name}' cannot be written: Is a directory" in end.value.code
    assert ' ms' in capsys.readouterr().out


def test_a_folder_that_cannot_be_used_is_told_first(tmp_path, capsys):
    (tmp_path / 'file').touch()
    with pytest.raises(SystemExit) as end:
        tool.main([*SMALL, '--out', str(tmp_path / 'file')])
    assert 'is a file; name another folder' in end.value.code
    assert capsys.readouterr().out == ''
