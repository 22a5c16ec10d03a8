"""C kernels with a fault in them, to see that tests find it."""

import atexit
import ctypes
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

from support import ROOT

from mambaout_mm.ops import native
from mambaout_mm.ops.native import compiling

OPERATORS = ROOT / 'mambaout_mm' / 'ops'


def library_with_fault(folder, source, old, new):
    """All kernels, with another text for a piece of text that a source has once.

    Args:
        folder (Path): An empty one to compile in.
        source (str): The C file or header of an operator, as 'gated_cnn/gate.c'.
        old, new (str): The texts.

    Returns:
        ctypes.CDLL: For the best instruction set of this processor.
    """
    for file in compiling.source_files():
        copy = folder / file.relative_to(OPERATORS)
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(file, copy)
    changed = folder / source
    text = changed.read_text()
    assert text.count(old) == 1, f'{source} has {text.count(old)} times: {old}'
    changed.write_text(text.replace(old, new))
    # Operators include headers of their own folder and of native/ alone.
    operator = source.partition('/')[0]
    sound = [file for name, file in sound_objects() if name != operator]
    library = folder / 'faulty.so'
    compile_fast(*folder.glob(f'{operator}/*.c'), *sound, '-o', library)
    loaded = ctypes.CDLL(str(library))
    loaded.use_parallel_region(ctypes.cast(ctypes.CDLL(None).GOMP_parallel, ctypes.c_void_p))
    return loaded


@functools.cache
def sound_objects():
    """(operator, object file) of each source as it is, compiled once for all faults."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    objects = []
    for source in compiling.sources():
        operator = source.parent.name
        objects.append((operator, folder / f'{operator}_{source.stem}.o'))
        compile_fast('-c', source, '-o', objects[-1][1])
    return objects


def compile_fast(*arguments):
    """For the best instruction set of this processor, without what takes time to optimise."""
    best = native.usable_instruction_sets()[0]
    flags = [*compiling.FLAGS, *compiling.INSTRUCTION_SETS[best], '-O1']
    if '-c' in arguments:
        flags.remove('-shared')
    command = [*compiling.find_compiler(), *flags, *map(str, arguments)]
    subprocess.run(command, check=True)
