"""tools/study.py from the command to the page."""

import csv
import importlib.util
import re
from pathlib import Path

import pytest
from mmengine.config import Config
from support import ROOT
from support_browser import Visit, chromium
from support_models import small_config

from mambaout_mm.demo import settings
from mambaout_mm.errors import UserError
from mambaout_mm.study.execute import run_task
from mambaout_mm.study.plan import candidates_of_mixers, tasks_of

spec = importlib.util.spec_from_file_location('study_tool', ROOT / 'tools' / 'study.py')
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)
SMALL_SIZE = ['--size', '64']


@pytest.fixture(scope='module')
def study(tmp_path_factory):
    """A finished study of a detector on the embedded data, and the arguments that made it."""
    folder = tmp_path_factory.mktemp('study')
    config = small_config('maskrcnn', folder)
    arguments = [
        str(config), '--mixers', 'conv', 'ssm', '--scratch', '--demo', '--seeds', '1',
        '--out', str(folder / 'out'), *SMALL_SIZE,
    ]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settings, 'ITERATIONS', 10)
        patch.setattr(settings, 'SIZE', 64)
        with pytest.raises(SystemExit) as ended:
            tool.main(arguments)
        assert ended.value.code == 0
        yield folder / 'out', arguments


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_every_task_is_trained_and_scored(study):
    out, _ = study
    rows = rows_of(out / 'study.csv')
    assert [(r['candidate'], r['seed'], r['metric']) for r in rows] == [
        (name, '0', metric) for name in ('conv', 'ssm') for metric in ('box AP', 'mask AP')
    ]
    assert all(r['state'] == 'done' and 0 <= float(r['score']) <= 100 for r in rows)
    effects = rows_of(out / 'effects.csv')
    difference = float(rows[2]['score']) - float(rows[0]['score'])
    assert float(effects[0]['value']) == pytest.approx(difference, abs=0.01)


@pytest.mark.slow
def test_the_page_has_the_answer_and_needs_nothing_else(study):
    out, _ = study
    page = (out / 'report.html').read_text()
    assert 'a single seed says nothing of the noise of training' in page
    assert 'data:image/png;base64,' in page
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert len(page) < 12_000_000


@pytest.mark.slow
def test_what_is_done_is_not_done_again(study, capsys):
    out, arguments = study
    before = {p: p.stat().st_mtime_ns for p in out.glob('*/seed0/*')}
    with pytest.raises(SystemExit) as ended:
        tool.main(arguments)
    assert ended.value.code == 0
    assert {p: p.stat().st_mtime_ns for p in out.glob('*/seed0/*')} == before
    assert 'conv/seed0: done before' in capsys.readouterr().out


@pytest.mark.slow
def test_the_page_can_be_read_on_a_telephone(study):
    """Nothing is wider than the screen, in Chromium."""
    out, _ = study
    with chromium() as browser:
        visit = Visit(browser, out / 'report.html', viewport=dict(width=400, height=800))
        assert visit.page.evaluate('document.documentElement.scrollWidth') <= 400
        broken = 'Array.from(document.images).filter(i => i.complete && !i.naturalWidth).length'
        assert visit.page.evaluate(broken) == 0
        assert not visit.errors


@pytest.fixture
def config(tmp_path):
    return small_config('upernet', tmp_path)


def test_a_dry_run_prints_a_command_for_each_task(config, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the commands run from where they were printed
    out = str(tmp_path / 'o')
    tool.main([str(config), '--mixers', 'conv', 'conv+ssm', '--seeds', '2', '--dry-run',
               '--out', out, *SMALL_SIZE])  # fmt: skip
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(' --only ')[1] for line in lines] == [
        'conv/seed0', 'conv+ssm/seed0', 'conv/seed1', 'conv+ssm/seed1',
    ]  # fmt: skip
    for line in lines:
        python, script, rest = line.split(maxsplit=2)
        assert python == 'python' and Path(script).samefile(tool.__file__)
        assert rest.startswith(f'{config} --mixers conv')


def test_mixers_differ_in_the_mixer_alone(config, tmp_path):
    found = candidates_of_mixers(
        config, ['conv', 'conv+ssm'], [3, 4], False, (64, 64), tmp_path / 'out'
    )
    plain, both = (Config.fromfile(c.config).model for c in found)
    assert both.backbone.pop('mixer')[0]['type'] == 'conv'
    assert plain.backbone.pop('mixer')[3]['type'] == 'conv'
    assert plain == both
    assert found[0].note.startswith('+0.0 % MACs') and not found[1].note.startswith('+0.0 %')


def test_from_random_weights_all_cost_the_same(config, tmp_path):
    found = candidates_of_mixers(
        config, ['conv', 'ssm', 'identity'], [3, 4], True, (64, 64), tmp_path / 'out'
    )
    for candidate in found:
        assert abs(float(candidate.note.split(' %')[0])) <= 1
        assert Config.fromfile(candidate.config).model.backbone.init_cfg is None


def test_a_mixer_without_weights_does_not_start_from_random_ones_unasked(config, tmp_path):
    with pytest.raises(UserError, match='nobody has weights for ssm: say --scratch'):
        candidates_of_mixers(config, ['conv', 'ssm'], [3, 4], False, (64, 64), tmp_path)


def test_mixers_need_mambaout(tmp_path):
    config = ROOT / 'configs' / 'segmentation' / 'upernet_vmamba_t.py'
    with pytest.raises(UserError, match='--mixers exchanges the mixer of MambaOut'):
        candidates_of_mixers(config, ['conv', 'ssm'], [3, 4], True, (64, 64), tmp_path)


def test_backbones_get_heads_that_fit(config, tmp_path):
    found = tool.candidates_of_backbones(config, ['MambaOut-Femto', 'VMamba-T'], tmp_path)
    femto, vmamba = (Config.fromfile(c.config).model for c in found)
    assert femto.decode_head.in_channels == [48, 96, 192, 288]
    assert vmamba.backbone.type == 'mambaout_mm.VMamba'
    assert vmamba.decode_head.in_channels == [96, 192, 384, 768]
    assert vmamba.auxiliary_head.in_channels == 384


def test_a_failed_task_leaves_its_reason(config, tmp_path):
    tools = tmp_path / 'tools'
    tools.mkdir()
    (tools / 'train.py').write_text("import sys\nprint('fine')\nsys.exit('error: no such data')\n")
    (candidate,) = candidates_of_mixers(config, ['conv'], [3], True, (64, 64), tmp_path / 'out')
    (task,) = tasks_of([candidate], 1, tmp_path / 'out')
    assert run_task(tools, task) == 'no such data'
    assert (task.folder / 'failed.txt').read_text() == 'no such data\n'
    study = tool.read_study([task])
    assert study.states == {'conv/seed0': 'failed: no such data'} and not study.effects
    assert 'conv/seed0: failed: no such data' in tool_page(study, tmp_path)


def tool_page(study, folder):
    tool.write_study(study, 'A study', folder)
    return (folder / 'report.html').read_text()


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['c.py'], 'name candidates by --mixers or --backbones'),
        (['c.py', '--mixers', 'conv'], 'one candidate has nothing to be held against'),
        (['c.py', '--mixers', 'conv', 'ssm', '--seeds', '0'], 'must be at least 1'),
    ],
)
def test_wrong_arguments_are_named(arguments, message, capsys):
    with pytest.raises(SystemExit):
        tool.main(arguments)
    assert message in capsys.readouterr().err


def test_a_config_that_is_not_there(capsys):
    with pytest.raises(SystemExit) as ended:
        tool.main(['no.py', '--mixers', 'conv', 'ssm'])
    assert "there is no config 'no.py'" in str(ended.value.code) + capsys.readouterr().err


def test_an_unknown_task_is_named(config, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        tool.main([str(config), '--mixers', 'conv', 'conv+ssm', '--seeds', '1',
                   '--out', str(tmp_path / 'o'), '--only', 'ssm/seed0', *SMALL_SIZE])  # fmt: skip
    message = str(ended.value.code) + capsys.readouterr().err
    assert "--only 'ssm/seed0' is no task; there are conv/seed0, conv+ssm/seed0" in message
