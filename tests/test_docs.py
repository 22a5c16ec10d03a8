"""The Python that the README and the guides show runs as it stands."""

import re
import shutil

import pytest
from mmengine.config import Config
from support import ROOT

from mambaout_mm.backbones.gated_blocks import MIXERS
from mambaout_mm.comparison.catalogue import entries_of
from mambaout_mm.measure.complexity import build_model
from mambaout_mm.training import checks


def python_blocks(path):
    return re.findall(r'```python\n(.*?)```', path.read_text(), flags=re.S)


def test_readme_config_builds(tmp_path):
    config, *_ = python_blocks(ROOT / 'README.md')
    (tmp_path / 'my_config.py').write_text(config)
    cfg = Config.fromfile(tmp_path / 'my_config.py')
    assert cfg.model.backbone.init_cfg.checkpoint == 'mambaout://tiny'
    model = build_model(cfg)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(43.13, abs=0.01)


def test_readme_python_runs(capsys):
    _, code, *_ = python_blocks(ROOT / 'README.md')
    exec(compile(code, 'README.md', 'exec'), {})
    assert '(192, 384, 576) (8, 16, 32)' in capsys.readouterr().out


def test_comparators_python_runs(capsys):
    (code,) = python_blocks(ROOT / 'docs' / 'comparators.md')
    exec(code, {})
    assert capsys.readouterr().out == '4907438592\n'  # the README of VMamba: 4.9 G


def test_comparison_python_runs(capsys):
    (code,) = python_blocks(ROOT / 'docs' / 'comparison.md')
    exec(compile(code, 'comparison.md', 'exec'), {})
    assert 'MambaOut-T   111.11    13.89     1.74     0.29' in capsys.readouterr().out


def test_study_python_runs(capsys):
    (code,) = python_blocks(ROOT / 'docs' / 'study.md')
    exec(compile(code, 'study.md', 'exec'), {})
    assert capsys.readouterr().out == '2.5346 0.999 1.012\n'


@pytest.mark.parametrize('tool', ['study', 'probe'])
def test_study_commands_name_what_the_tools_know(tool):
    text = (ROOT / 'docs' / 'study.md').read_text()
    commands = re.findall(rf'^python tools/{tool}\.py(.*)$', text, flags=re.M)
    known = (ROOT / 'tools' / f'{tool}.py').read_text()
    assert commands
    for option in re.findall(r'--[\w-]+', ' '.join(commands)):
        assert f"'{option}'" in known, option
    for mixers in re.findall(r'--mixers (.+?) --', ' '.join(commands)):
        assert set(mixers.split()) <= set(MIXERS)
    names = ' '.join(re.findall(r'--backbones (.+?) --', ' '.join(commands))).split()
    assert entries_of(names) or tool == 'probe'


def test_comparison_commands_name_what_the_tool_knows():
    """Options and backbones in the guide's commands; a misspelt one would only show when run."""
    text = (ROOT / 'docs' / 'comparison.md').read_text()
    commands = re.findall(r'^python tools/compare\.py(.*)$', text, flags=re.M)
    known = (ROOT / 'tools' / 'compare.py').read_text()
    assert len(commands) >= 6
    for option in re.findall(r'--[\w-]+', ' '.join(commands)):
        assert f"'{option}'" in known, option
    assert not re.search(r'{[A-Z]+}', text), 'a place is left to be filled in'
    for picture in re.findall(r'!\[.*?\]\((.*?)\)', text):
        assert (ROOT / 'docs' / picture).is_file(), picture
    (names,) = re.findall(r'--backbones ([^#\n]+)', text)
    entries_of([name for name in names.split() if not name.endswith('.py')])


@pytest.mark.parametrize('small', [False, True], ids=['as shown', 'with the small settings'])
@pytest.mark.parametrize(
    ('name', 'folder', 'classes'), [('my_fruit', 'detection', 3), ('my_camvid', 'segmentation', 11)]
)
def test_custom_data_configs_build(name, folder, classes, small, tmp_path):
    detection, segmentation, small_detection, small_segmentation = python_blocks(
        ROOT / 'docs' / 'custom_data.md'
    )
    text = detection if folder == 'detection' else segmentation
    if small:
        text += small_detection if folder == 'detection' else small_segmentation
    shutil.copytree(ROOT / 'configs', tmp_path / 'configs')
    path = tmp_path / 'configs' / folder / f'{name}.py'
    path.write_text(text)
    cfg = checks.load_config(str(path))
    checks.check_num_classes(cfg)
    assert len(cfg.train_dataloader.dataset.metainfo.classes) == classes
    assert cfg.test_dataloader.dataset.metainfo == cfg.train_dataloader.dataset.metainfo
    assert cfg.model.backbone.arch == ('femto' if small else 'tiny')
    build_model(cfg)
