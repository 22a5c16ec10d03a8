"""Which library of C kernels is loaded, when it is compiled anew, and why there is none."""

import ctypes
import errno
import json
import logging
import os
import shutil
import subprocess
import sys

import pytest

from mambaout_mm.ops import native
from mambaout_mm.ops.native import compiling

FAILING = '#!/bin/sh\necho "kernel.c:7: error: no such type" >&2\necho and more >&2\nexit 1\n'
# A package of another name around a folder of operators, so that mambaout_mm is not imported.
SAY = """
import importlib, json, sys, types
package = types.ModuleType('operators')
package.__path__ = [sys.argv[1]]
sys.modules['operators'] = package
native = importlib.import_module('operators.native')
library = native.kernels()
said = native.usable_instruction_sets(), native.description(), library and library._name
print(json.dumps(said))
"""

pytestmark = pytest.mark.skipif(not compiling.supported(), reason='kernels are for Linux and macOS')
compiler = pytest.mark.skipif(
    compiling.find_compiler() is None, reason='there is no C compiler here'
)


@pytest.fixture(autouse=True)
def chosen_anew(monkeypatch):
    monkeypatch.delenv(compiling.SWITCH, raising=False)
    native._choose.cache_clear()
    yield
    native._choose.cache_clear()


@pytest.fixture
def operators(tmp_path, monkeypatch):
    """Operators with one small kernel and no library, which this process takes for its own."""
    folder = tmp_path / 'ops'
    ignored = shutil.ignore_patterns('kernels_*', '.compiling-*', '__pycache__')
    shutil.copytree(compiling.OPERATORS / 'native', folder / 'native', ignore=ignored)
    (folder / 'operator').mkdir()
    (folder / 'operator' / 'kernel.c').write_text('#include "../native/vector.h"\n')
    monkeypatch.setattr(native, 'HERE', folder / 'native')
    monkeypatch.setattr(compiling, 'OPERATORS', folder)
    return folder


def no_compiler(monkeypatch, folder):
    empty = folder / 'empty'
    empty.mkdir()
    monkeypatch.delenv('CC', raising=False)
    monkeypatch.setenv('PATH', str(empty))
    monkeypatch.setitem(sys.modules, 'ziglang', None)


def failing_compiler(monkeypatch, folder):
    command = folder / 'failing'
    command.write_text(FAILING)
    command.chmod(0o755)
    monkeypatch.setenv('CC', str(command))


def libraries():
    """Files and their numbers on the disk, which new files have anew."""
    return {file.name: file.stat().st_ino for file in native.HERE.glob('kernels_*.so')}


def says_not(*words):
    assert native.kernels() is None
    for word in words:
        assert word in native.description()
    assert '\n' not in native.description()


def say(folder, **environment):
    """What another process says: instruction sets, description, library."""
    command = [sys.executable, '-c', SAY, folder]
    environment = {**os.environ, **environment}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def answer(process):
    out, _ = process.communicate(timeout=300)
    return json.loads(out.splitlines()[-1])


@compiler
def test_the_kernels_run_where_there_is_a_compiler():
    """Else all their tests would be skipped, and nobody would see why."""
    assert native.kernels() is not None, native.description()


def test_the_switch(monkeypatch):
    monkeypatch.setenv(compiling.SWITCH, 'off')
    says_not('off, by MAMBAOUT_MM_NATIVE=off')


@pytest.mark.parametrize('value', ['on', ''])
@compiler
def test_the_switch_need_not_be_set(value, monkeypatch, operators):
    monkeypatch.setenv(compiling.SWITCH, value)
    assert native.kernels() is not None


def test_another_value_of_the_switch_is_an_error_each_time(monkeypatch):
    monkeypatch.setenv(compiling.SWITCH, 'OFF')
    for ask in (native.kernels, native.description, native.kernels):
        with pytest.raises(ValueError, match='must be "on" or "off", got \'OFF\''):
            ask()


def test_an_installation_without_libraries_says_so(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(native, 'HERE', tmp_path)
    monkeypatch.setattr(compiling, 'OPERATORS', tmp_path)  # as in a wheel, without sources
    with caplog.at_level(logging.INFO, 'mambaout_mm'):
        says_not('PyTorch operations run instead', 'was built without a C compiler')
        native.kernels()
    assert len(caplog.records) == 1
    assert native.description() in caplog.text


def test_without_a_compiler(operators, tmp_path, monkeypatch):
    no_compiler(monkeypatch, tmp_path)
    says_not('there is no C compiler')


def test_a_compiler_of_the_environment_that_is_not_there(operators, tmp_path, monkeypatch):
    no_compiler(monkeypatch, tmp_path)
    monkeypatch.setenv('CC', 'lacking-cc -O1')
    says_not('there is no lacking-cc -O1')


def test_a_library_that_is_none(operators):
    for name in compiling.instruction_sets():
        file = native.HERE / compiling.file_name(name)
        file.write_text('no library')
        os.utime(file, ns=(compiling.newest_change(),) * 2)
    says_not(str(native.HERE))


@compiler
@pytest.mark.parametrize('name', ['operator/kernel.c', 'native/vector.h'])
def test_a_change_of_a_source_compiles_again(name, operators):
    assert native.kernels() is not None
    before = libraries()
    os.utime(operators / name)
    native._choose.cache_clear()
    assert native.kernels() is not None
    assert not set(before.values()) & set(libraries().values())
    native._choose.cache_clear()
    after = libraries()
    assert native.kernels() is not None
    assert libraries() == after


@compiler
def test_a_change_while_compiling_compiles_again(operators, monkeypatch):
    run = subprocess.run

    def run_and_change(*args, **options):
        done = run(*args, **options)
        os.utime(operators / 'native' / 'vector.h')
        return done

    with monkeypatch.context() as while_compiling:
        while_compiling.setattr(subprocess, 'run', run_and_change)
        assert native.kernels() is not None
    before = libraries()
    native._choose.cache_clear()
    assert native.kernels() is not None
    assert not set(before.values()) & set(libraries().values())


@compiler
def test_a_stale_library_is_not_taken_where_the_compiler_fails(operators, tmp_path, monkeypatch):
    assert native.kernels() is not None
    os.utime(operators / 'operator' / 'kernel.c')
    native._choose.cache_clear()
    failing_compiler(monkeypatch, tmp_path)
    says_not('kernel.c:7: error: no such type')
    assert not list(native.HERE.glob('.compiling-*'))


@compiler
def test_a_stale_library_is_not_taken_where_nothing_can_be_written(operators, monkeypatch):
    assert native.kernels() is not None
    os.utime(operators / 'operator' / 'kernel.c')
    native._choose.cache_clear()

    def refuse(**options):  # root may write to any folder whose file system can be written to
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), options['dir'])

    monkeypatch.setattr(compiling.tempfile, 'TemporaryDirectory', refuse)
    says_not(f'cannot be compiled into {native.HERE} (Read-only file system)')


@compiler
def test_an_openmp_without_the_function_that_runs_tasks(operators, monkeypatch):
    load = ctypes.CDLL
    monkeypatch.setattr(ctypes, 'CDLL', lambda name: load(name) if name else object())
    says_not("PyTorch's OpenMP", 'GOMP_parallel')


@compiler
@pytest.mark.parametrize('capability', ['avx2', 'default'])
def test_the_library_is_that_of_pytorchs_capability(capability):
    expected = native.usable_instruction_sets()
    if capability.upper() not in expected:
        pytest.skip(f'this processor has no {capability.upper()}')
    expected = expected[expected.index(capability.upper()) :]
    process = say(compiling.OPERATORS, ATEN_CPU_CAPABILITY=capability)
    found, description, library = answer(process)
    assert found == list(expected)
    assert library.endswith(f'kernels_{capability}.so')
    words = {'avx2': 'in use, for AVX2', 'default': 'in use, for any processor'}
    assert description == words[capability]


@compiler
def test_processes_that_compile_at_the_same_time(operators):
    processes = [say(operators) for _ in range(2)]
    for process in processes:
        _, description, library = answer(process)
        assert description.startswith('in use')
        assert os.path.dirname(library) == str(operators / 'native')
    assert not list(native.HERE.glob('.compiling-*'))
