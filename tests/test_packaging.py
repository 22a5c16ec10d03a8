"""The wheel, and what the import says where OpenMMLab is absent."""

import os
import re
import subprocess
import sys
import zipfile

import pytest
from support import CONFIGS, ROOT


@pytest.mark.slow
def test_the_wheel_carries_configs_and_tools(tmp_path):
    command = [sys.executable, '-m', 'pip', 'wheel', '--no-deps', '--no-build-isolation', '-q']
    subprocess.run([*command, '-w', tmp_path, ROOT], check=True, capture_output=True)
    (wheel,) = tmp_path.glob('mambaout_mm-*-py3-none-any.whl')
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = [n for n in names if n.endswith('METADATA')]
        text = archive.read(metadata).decode()
    for path in CONFIGS:
        assert f'mambaout_mm/.mim/{path.relative_to(ROOT)}' in names
    for name in ('model-index.yml', 'tools/train.py', 'tools/dist_train.sh'):
        assert f'mambaout_mm/.mim/{name}' in names
    for path in ROOT.glob('mambaout_mm/**/*.py'):
        assert str(path.relative_to(ROOT)) in names
    for name in (
        'costs.csv',
        'published.csv',
        'page.html',
        'macros.html',
        'page.css',
        'page.js',
    ):
        assert f'mambaout_mm/comparison/{name}' in names
    assert not [n for n in names if n.startswith('tests')]
    required = [
        line
        for line in text.splitlines()
        if line.startswith('Requires-Dist') and 'extra' not in line
    ]
    assert not [line for line in required if re.search(r'(onedl-|: )mm', line)]


@pytest.mark.slow
def test_the_installed_package_builds_a_model_from_elsewhere(tmp_path):
    command = [sys.executable, '-m', 'pip', 'install', '--no-deps', '--no-build-isolation', '-q']
    subprocess.run([*command, '--target', tmp_path / 'site', ROOT], check=True)
    code = (
        'import mambaout_mm\n'
        'from mmengine.config import Config\n'
        'from mambaout_mm.measure.complexity import build_model\n'
        'from mambaout_mm.comparison.counting import recorded_costs\n'
        'from mambaout_mm.config_files import find_config\n'
        'assert len(recorded_costs()) > 30\n'
        'path = find_config("segmentation/upernet_mambaout_femto.py")\n'
        'assert "site/mambaout_mm/.mim/configs" in str(path)\n'
        'cfg = Config.fromfile(path)\n'
        'print(mambaout_mm.__file__, sum(p.numel() for p in build_model(cfg).parameters()))'
    )
    env = {**os.environ, 'PYTHONPATH': str(tmp_path / 'site')}
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, cwd=tmp_path, env=env
    )
    file, count = done.stdout.splitlines()[-1].split()
    assert file.startswith(str(tmp_path / 'site')), done.stderr
    assert int(count) == 34428860


def test_without_mmengine_the_import_says_what_to_install():
    code = (
        'import sys; sys.modules["mmengine"] = None\n'
        'try:\n    import mambaout_mm\n'
        'except ImportError as error:\n    print(error)'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT)
    assert 'pip install "mambaout-mm[mm]"' in done.stdout, done.stderr
