"""The C kernels under the compiler's warnings and sanitizers, for each instruction set here.

A kernel has a program `check_NAME.c` in this folder (see driver.h).
"""

import subprocess
from pathlib import Path

import pytest

from mambaout_mm.ops import native
from mambaout_mm.ops.native import compiling

HERE = Path(__file__).parent
PROGRAMS = sorted(HERE.glob('check_*.c'))
SANITIZERS = {
    # -O3 takes half a minute for the code that these two add
    'address': ['-O1', '-fsanitize=address,undefined', '-fno-sanitize-recover=all'],
    'threads': ['-fsanitize=thread'],
}
# Work is divided among threads alike with all instruction sets.
RUNS = [('address', name) for name in native.usable_instruction_sets()] + [('threads', 'DEFAULT')]
BEYOND = """
#include "driver.h"
static void run(const long *arguments, long shift, long threads, struct array *results) {
    (void)threads;
    results[0] = numbers(arguments[0], 2, 2 * shift);
}
int main(int count, char **arguments) {
    (void)arguments;
    use_parallel_region(region_of_pthreads);
    check(run, (long[]){3, 0, 0});
    struct array a = array(3, 2, 2);
    char *volatile hidden_from_the_compiler = a.data;
    return hidden_from_the_compiler[6 * count];
}
"""

compiler = pytest.mark.skipif(
    compiling.find_compiler() is None or 'ziglang' in compiling.find_compiler(),
    reason='there is no C compiler with sanitizers here (gcc or clang)',
)


def compiled(program, folder, instruction_set, *flags):
    """An executable of a program that includes its kernel."""
    executable = folder / program.stem
    flags = [
        *(flag for flag in compiling.FLAGS if flag != '-shared'),
        *compiling.INSTRUCTION_SETS[instruction_set],
        *('-g', '-pthread', f'-I{HERE}', f'-I{compiling.OPERATORS}'),
        *flags,
    ]
    files = [program, compiling.OPERATORS / 'native' / 'parallel.c', '-o', executable]
    command = [*compiling.find_compiler(), *flags, *files]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return executable


@pytest.fixture(scope='module')
def sanitizer(request, tmp_path_factory):
    """Flags of a sanitizer that finds something here."""
    folder, flags = tmp_path_factory.mktemp('sanitizer'), SANITIZERS[request.param]
    program = folder / 'beyond.c'
    program.write_text(BEYOND)
    try:
        executable = compiled(program, folder, 'DEFAULT', *flags)
    except subprocess.CalledProcessError as error:
        pytest.skip(f'the compiler has no {" ".join(flags)}: {error.stderr.splitlines()[-1]}')
    done = subprocess.run([executable], capture_output=True, text=True)
    if request.param == 'address':
        assert 'heap-buffer-overflow' in done.stderr
    elif 'FATAL: ThreadSanitizer' in done.stderr:
        pytest.skip(done.stderr.strip())
    return flags


@compiler
def test_compilers_have_nothing_to_warn_of(tmp_path):
    flags = ['-O1', '-Wall', '-Wextra', '-Werror']  # -O3 takes a minute
    libraries = compiling.compile_kernels(tmp_path, flags)
    assert len(libraries) == len(compiling.instruction_sets())


def test_every_kernel_has_a_program():
    included = ''.join(program.read_text() for program in PROGRAMS)
    kernels = [file for file in compiling.sources() if file.parent.name != 'native']
    assert not [file for file in kernels if f'"{file.parent.name}/{file.name}"' not in included]


@compiler
@pytest.mark.parametrize(('sanitizer', 'instruction_set'), RUNS, indirect=['sanitizer'])
@pytest.mark.parametrize('program', PROGRAMS, ids=lambda program: program.stem)
def test_sanitizers_find_nothing(program, instruction_set, sanitizer, tmp_path):
    executable = compiled(program, tmp_path, instruction_set, *sanitizer)
    done = subprocess.run([executable], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
