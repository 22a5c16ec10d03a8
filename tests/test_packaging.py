"""The wheel, with C kernels and without, and what the import says where OpenMMLab is absent."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.util import find_spec

import pytest
import torch
from packaging.requirements import Requirement
from support import CONFIGS, ROOT

from mambaout_mm.ops.native import compiling

NATIVE = ROOT / 'mambaout_mm' / 'ops' / 'native'
LIBRARIES = {
    f'mambaout_mm/ops/native/{compiling.file_name(name)}' for name in compiling.instruction_sets()
}
FORWARD = """
import sys, torch
from mambaout_mm import MambaOut
from mambaout_mm.ops import native
torch.manual_seed(0)
backbone = MambaOut('femto')
images = torch.rand(2, 3, 65, 97)
features = backbone(images)
sum(x.square().mean() for x in features).backward()
torch.save([*features, *(x.grad for x in backbone.parameters())], sys.argv[1])
print(native.description())
"""
HOOK = """
import sys
sys.path.insert(0, sys.argv[1])
import backend
print(getattr(backend, sys.argv[2])(*sys.argv[3:]))
"""

compiler = pytest.mark.skipif(
    compiling.find_compiler() is None or not compiling.supported(),
    reason='there is no C compiler here',
)
no_zig = pytest.mark.skipif(
    find_spec('ziglang') is not None, reason='ziglang, installed here, is a compiler'
)


def build_wheel(source, folder, env=None):
    command = [sys.executable, '-m', 'pip', 'wheel', '--no-deps', '--no-build-isolation', '-q']
    subprocess.run([*command, '-w', folder, source], check=True, capture_output=True, env=env)
    (wheel,) = folder.glob('mambaout_mm-*.whl')
    return wheel


def names_in(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def text_in(wheel, end):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(end)]
        return archive.read(name).decode()


def install(wheel, folder):
    command = [sys.executable, '-m', 'pip', 'install', '--no-deps', '-q', '--target', folder]
    subprocess.run([*command, wheel], check=True, capture_output=True)
    return {**os.environ, 'PYTHONPATH': str(folder)}


def run_python(*args, **options):
    command = [sys.executable, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=True, **options).stdout


def call_hook(name, *args, env=None):
    """What a hook of the build backend returns, in words."""
    return run_python('-c', HOOK, NATIVE, name, *args, cwd=ROOT, env=env).splitlines()[-1]


@pytest.fixture(scope='module')
def without_compiler(tmp_path_factory):
    """The environment with no program at all to be found."""
    env = {name: value for name, value in os.environ.items() if name != 'CC'}
    return {**env, 'PATH': str(tmp_path_factory.mktemp('empty'))}


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """Built with the compiler of this machine."""
    return build_wheel(ROOT, tmp_path_factory.mktemp('wheel'))


@pytest.fixture(scope='module')
def wheel_without_kernels(tmp_path_factory, without_compiler):
    return build_wheel(ROOT, tmp_path_factory.mktemp('pure'), without_compiler)


@pytest.mark.slow
def test_the_wheel_carries_configs_and_tools(wheel):
    names = names_in(wheel)
    text = text_in(wheel, '.dist-info/METADATA')
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
@compiler
def test_a_wheel_with_kernels_is_for_any_python_on_this_platform(wheel):
    platform = re.fullmatch(r'mambaout_mm-[\d.]+-py3-none-(\w+)\.whl', wheel.name)[1]
    assert platform.startswith(('linux_', 'macosx_'))
    names = names_in(wheel)
    assert {name for name in names if name.endswith('.so')} == LIBRARIES
    assert not [name for name in names if name.endswith(('.c', '.h'))]
    said = text_in(wheel, '.dist-info/WHEEL')
    assert 'Root-Is-Purelib: false' in said  # else auditwheel refuses it
    assert f'Tag: py3-none-{platform}' in said


@pytest.mark.slow
@no_zig
def test_a_wheel_without_kernels_is_for_any_platform(wheel, wheel_without_kernels):
    assert wheel_without_kernels.name.endswith('-py3-none-any.whl')
    assert set(names_in(wheel_without_kernels)) == set(names_in(wheel)) - LIBRARIES
    assert 'Root-Is-Purelib: true' in text_in(wheel_without_kernels, '.dist-info/WHEEL')


@pytest.mark.slow
def test_a_compiler_that_fails_does_not_stop_the_installation(tmp_path):
    failing = tmp_path / 'failing'
    failing.write_text('#!/bin/sh\nexit 1\n')
    failing.chmod(0o755)
    pure = build_wheel(ROOT, tmp_path / 'wheel', {**os.environ, 'CC': str(failing)})
    assert pure.name.endswith('-py3-none-any.whl')


@pytest.mark.slow
@compiler
@no_zig
def test_installations_with_and_without_kernels_agree(wheel, wheel_without_kernels, tmp_path):
    results = []
    for name, built, expected in (
        ('native', wheel, 'in use, for '),
        ('pure', wheel_without_kernels, 'which was built without a C compiler'),
    ):
        env = install(built, tmp_path / name)
        file = tmp_path / f'{name}.pt'
        assert expected in run_python('-c', FORWARD, file, cwd=tmp_path, env=env)
        results.append(torch.load(file))
    for native, pure in zip(*results, strict=True):
        torch.testing.assert_close(native, pure, rtol=1e-4, atol=1e-5)
    said = run_python('-m', 'mambaout_mm', cwd=tmp_path, env=env)
    assert 'C kernels:      not in use, PyTorch operations run instead: kernels_' in said


@pytest.mark.slow
def test_a_wheel_of_the_source_distribution_is_the_same(wheel, tmp_path):
    archive = tmp_path / call_hook('build_sdist', tmp_path)
    shutil.unpack_archive(archive, tmp_path)
    source = tmp_path / archive.name.removesuffix('.tar.gz')
    assert not (source / 'tests').exists()
    assert set(names_in(build_wheel(source, tmp_path))) == set(names_in(wheel))


@pytest.mark.parametrize('kind', ['wheel', 'editable'])
def test_a_build_asks_for_a_compiler_only_where_there_is_none(kind, without_compiler, tmp_path):
    hook = f'get_requires_for_build_{kind}'
    found = tmp_path / 'cc'
    found.write_text('')
    found.chmod(0o755)
    assert 'ziglang' not in call_hook(hook, env={**without_compiler, 'PATH': str(tmp_path)})
    assert 'ziglang' not in call_hook(hook, env={**without_compiler, compiling.SWITCH: 'off'})
    if find_spec('ziglang') is None and compiling.supported():
        assert 'ziglang' in call_hook(hook, env=without_compiler)


def test_where_ziglang_has_no_wheel_it_is_not_asked_for():
    text = (NATIVE / 'backend.py').read_text()
    requirement = Requirement(''.join(re.findall(r"^    '(.+)'$", text, re.MULTILINE)))
    machines = ('x86_64', 'aarch64', 'arm64', 'mips')
    asked = [requirement.marker.evaluate({'platform_machine': machine}) for machine in machines]
    assert asked == [True, True, True, False]


@pytest.mark.slow
@pytest.mark.skipif(find_spec('ziglang') is None, reason='ziglang (100 MB) is not installed here')
def test_ziglang_compiles_the_kernels(without_compiler, tmp_path):
    built = build_wheel(ROOT, tmp_path, without_compiler)
    assert set(names_in(built)) >= LIBRARIES


@pytest.mark.slow
def test_the_installed_package_builds_a_model_from_elsewhere(wheel, tmp_path):
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
    env = install(wheel, tmp_path / 'site')
    file, count = run_python('-c', code, cwd=tmp_path, env=env).splitlines()[-1].split()
    assert file.startswith(str(tmp_path / 'site'))
    assert int(count) == 34428860


def test_without_mmengine_the_import_says_what_to_install():
    code = (
        'import sys; sys.modules["mmengine"] = None\n'
        'try:\n    import mambaout_mm\n'
        'except ImportError as error:\n    print(error)'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT)
    assert 'pip install "mambaout-mm[mm]"' in done.stdout, done.stderr


@pytest.mark.slow
def test_installing_it_changes_no_package_of_this_environment():
    """Whichever that is: `make test-upstream` runs it on PyTorch 2.1 and upstream OpenMMLab."""
    command = [
        '-m',
        'pip',
        'install',
        '--dry-run',
        '--no-index',
        '--no-build-isolation',
        '-q',
        '--report',
        '-',
    ]
    planned = json.loads(run_python(*command, ROOT))['install']
    assert [package['metadata']['name'] for package in planned] == ['mambaout-mm']
