"""Compile the kernels: plain C, one shared library for each instruction set.

Used by ``setup.py`` and, where the sources lie beside the package, when the kernels are first asked
for. It needs nothing but Python, because PyTorch is not there while a wheel is built.
"""

import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

OPERATORS = Path(__file__).parents[1]
SWITCH = 'MAMBAOUT_MM_NATIVE'

# By the name of PyTorch's capability that it needs (``torch.backends.cpu.get_cpu_capability``).
INSTRUCTION_SETS = {
    'AVX512': (
        '-mavx512f',
        '-mavx512vl',
        '-mavx512bw',
        '-mavx512dq',
        '-mfma',
        '-mprefer-vector-width=512',
    ),
    'AVX2': ('-mavx2', '-mfma'),
    'DEFAULT': (),
}
X86 = ('x86_64', 'AMD64')
# Not -ffast-math: NaN and infinity are to pass through. -g0: zig's libraries are thrice as large
# with what debuggers read.
FLAGS = ('-std=gnu11', '-O3', '-g0', '-fPIC', '-shared', '-fno-math-errno', '-fno-trapping-math')


class CompilerError(Exception):
    """There is no compiler, or it failed; the message says so in one line."""


def switched_off() -> bool:
    """Whether the environment says ``MAMBAOUT_MM_NATIVE=off``.

    Raises:
        ValueError: If its value is neither ``on`` nor ``off``.
    """
    value = os.environ.get(SWITCH) or 'on'
    if value not in ('on', 'off'):
        raise ValueError(f'{SWITCH} must be "on" or "off", got {value!r}')
    return value == 'off'


def sources() -> list[Path]:
    """The C files of all operators; empty in a wheel."""
    return sorted(OPERATORS.glob('*/*.c'))


def source_files() -> list[Path]:
    """The C files and headers."""
    return sorted([*sources(), *OPERATORS.glob('*/*.h')])


def newest_change() -> int:
    """When a source or this file, which has the flags, changed last, in nanoseconds; 0 in a wheel.

    Libraries carry this time and not their own, so that a change while they are compiled shows.
    """
    files = source_files()
    return max(file.stat().st_mtime_ns for file in [*files, Path(__file__)]) if files else 0


def instruction_sets() -> tuple[str, ...]:
    """Names of those that this machine's architecture may have, the best first."""
    return tuple(INSTRUCTION_SETS) if platform.machine() in X86 else ('DEFAULT',)


def file_name(instruction_set: str) -> str:
    """Name of a shared library."""
    return f'kernels_{instruction_set.lower()}.so'


def supported() -> bool:
    """Whether the kernels can run here: they use PyTorch's threads as Linux and macOS have them."""
    return sys.platform in ('linux', 'darwin')


def find_compiler() -> list[str] | None:
    """The command of a C compiler: ``$CC``, cc, gcc or clang, else that of the ziglang wheel."""
    named = shlex.split(os.environ.get('CC', ''))
    for command in [named] if named else [['cc'], ['gcc'], ['clang']]:
        if shutil.which(command[0]):
            return command
    if importlib.util.find_spec('ziglang'):
        machine = {'arm64': 'aarch64'}.get(platform.machine(), platform.machine())
        system = 'macos' if sys.platform == 'darwin' else 'linux-gnu.2.17'
        # Without a target zig compiles for the processor at hand, and unlike others it makes
        # undefined behaviour crash unless told not to.
        target = ['-target', f'{machine}-{system}', '-fno-sanitize=undefined']
        return [sys.executable, '-m', 'ziglang', 'cc', *target]
    return None


def compile_kernels(folder: Path, extra_flags: Sequence[str] = ()) -> list[Path]:
    """Write a shared library for each instruction set of this architecture.

    Args:
        folder (Path): Where to; it must exist.
        extra_flags (Sequence[str]): For the compiler. Defaults to none.

    Returns:
        list[Path]: The libraries.

    Raises:
        CompilerError: If there is no compiler or it fails.
    """
    compiler = find_compiler()
    if compiler is None:
        wanted = os.environ.get('CC') or 'C compiler (cc, gcc, clang)'
        raise CompilerError(f'there is no {wanted}, nor the ziglang wheel')
    changed = newest_change()  # before reading the sources, should they change meanwhile
    try:
        # Not in the folder itself: several processes may compile at the same time.
        temporary = tempfile.TemporaryDirectory(dir=folder, prefix='.compiling-')
    except OSError as error:
        raise CompilerError(f'they cannot be compiled into {folder} ({error.strerror})') from None
    with temporary:
        libraries = []
        for name in instruction_sets():
            library = Path(temporary.name) / file_name(name)
            flags = [*FLAGS, *INSTRUCTION_SETS[name], *extra_flags]
            _run([*compiler, *flags, *map(str, sources()), '-o', str(library)], temporary.name)
            os.utime(library, ns=(changed, changed))
            libraries.append(library)
        return [library.replace(folder / library.name) for library in libraries]


def _run(command: list[str], cache: str) -> None:
    """Run a compiler; ``cache`` is where zig is to leave what it compiles of its own."""
    environment = {**os.environ, 'ZIG_GLOBAL_CACHE_DIR': cache, 'ZIG_LOCAL_CACHE_DIR': cache}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors='replace', env=environment, check=False
        )
    except OSError as error:
        raise CompilerError(f'{command[0]} cannot be run ({error.strerror})') from None
    if done.returncode:
        lines = done.stderr.splitlines() or ['without a word']
        reason = next((line for line in lines if 'error' in line), lines[0])
        raise CompilerError(f'the compiler says {reason.strip()!r} to {shlex.join(command)}')
