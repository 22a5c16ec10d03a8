"""Shared by the tests of Triton kernels: processes that interpret or compile them without a GPU."""

import os
import re
import subprocess
import sys
from pathlib import Path

import triton
from support import ROOT

TARGETS = {'sm_80': 80, 'sm_90': 90}
CUOBJDUMP = Path(triton.__file__).parent / 'backends' / 'nvidia' / 'bin' / 'cuobjdump'
USAGE = ('REG', 'STACK', 'LOCAL')


def start_processes(file, make_folder):
    """Start what a test file needs together, so that the slow ones share the time.

    Args:
        file (str): The test file. Its ``check_*`` run in Triton's interpreter; as a program it
            compiles for the target that it is given, and a folder to work in.
        make_folder (Callable): Makes a folder of a name.

    Returns:
        dict[str, Popen]: 'interpreter', and the targets where Triton brings what compiles.
    """
    flags = ['-p', 'no:cacheprovider', '--noconftest', '-o', 'python_functions=check_*']
    commands = {'interpreter': [sys.executable, '-m', 'pytest', *flags, file]}
    if CUOBJDUMP.exists() and CUOBJDUMP.with_name('ptxas').exists():
        for target in TARGETS:
            commands[target] = [sys.executable, file, target, str(make_folder(target))]
    paths = os.pathsep.join(filter(None, (str(ROOT / 'tests'), os.environ.get('PYTHONPATH'))))
    started = {}
    for name, command in commands.items():
        env = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': paths}
        env.pop('TRITON_INTERPRET', None)
        if name == 'interpreter':
            env['TRITON_INTERPRET'] = '1'
        started[name] = subprocess.Popen(
            command, env=env, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
    return started


def compile_at_launch(kernels, names, target):
    """Have launches compile for a device that is not there.

    Args:
        kernels (module): Of the kernels; those named are replaced in it.
        names (Sequence[str]): Of the kernels.
        target (str): Of ``TARGETS``.

    Returns:
        list: What launches compile from now on, in their order.
    """
    compiled = []

    class Driver:
        """Of a device that is not there."""

        get_current_target = staticmethod(
            lambda: triton.backends.compiler.GPUTarget('cuda', TARGETS[target], 32)
        )
        get_current_device = staticmethod(lambda: 0)
        get_current_stream = staticmethod(lambda device: 0)

    class Compile:
        """In place of a kernel: a launch compiles."""

        def __init__(self, kernel):
            self.kernel = kernel

        def __getitem__(self, grid):
            return lambda *args, **kwargs: compiled.append(
                self.kernel.warmup(*args, grid=grid, **kwargs)
            )

    triton.runtime.driver.set_active(Driver())
    for name in names:
        setattr(kernels, name, Compile(getattr(kernels, name)))
    return compiled


def usage_of(kernel, folder):
    """Registers, stack and local memory of a compiled kernel."""
    cubin = Path(folder, 'kernel.cubin')
    cubin.write_bytes(kernel.asm['cubin'])
    command = [str(CUOBJDUMP), '--dump-resource-usage', str(cubin)]
    usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [int(re.search(rf'{key}:(\d+)', usage)[1]) for key in USAGE]
