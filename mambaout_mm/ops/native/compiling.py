"""Compile the kernels: plain C, one shared library for each instruction set.

Used by ``setup.py`` and, where the sources lie beside the package, by ``library.py``. It needs
nothing but Python, because PyTorch is not there while a wheel is built.
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

HERE = Path(__file__).parent
OPERATORS = HERE.parent

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
# Not -ffast-math: NaN and infinity are to pass through.
FLAGS = ('-std=gnu11', '-O3', '-fPIC', '-shared', '-fno-math-errno', '-fno-trapping-math')


class CompilerError(Exception):
    """There is no compiler, or it failed."""


def sources() -> list[Path]:
    """The C files of all operators; empty in a wheel."""
    return sorted(OPERATORS.glob('*/*.c'))


def source_files() -> list[Path]:
    """The C files and headers."""
    return sorted([*sources(), *OPERATORS.glob('*/*.h')])


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
        # Named, since without a target zig compiles for the processor at hand.
        return [sys.executable, '-m', 'ziglang', 'cc', '-target', f'{machine}-{system}']
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
        raise CompilerError('there is no C compiler (cc, gcc, clang, $CC, or the ziglang wheel)')
    libraries = []
    # Not in the folder itself: several processes may compile at the same time.
    with tempfile.TemporaryDirectory(dir=folder, prefix='.compiling-') as temporary:
        for name in instruction_sets():
            library = Path(temporary) / file_name(name)
            command = [*compiler, *FLAGS, *INSTRUCTION_SETS[name], *extra_flags]
            command += [*map(str, sources()), '-o', str(library)]
            try:
                done = subprocess.run(command, capture_output=True, text=True, check=False)
            except OSError as error:
                raise CompilerError(f'{compiler[0]} cannot be run: {error}') from None
            if done.returncode:
                raise CompilerError(f'{shlex.join(command)} failed:\n{done.stderr.strip()}')
            libraries.append(library)
        return [library.replace(folder / library.name) for library in libraries]
