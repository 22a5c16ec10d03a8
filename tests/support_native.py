"""C kernels with a fault in them, to see that tests find it."""

import ctypes
import shutil
import subprocess

from support import ROOT

from mambaout_mm.ops import native
from mambaout_mm.ops.native import compiling

OPERATORS = ROOT / 'mambaout_mm' / 'ops'


def library_with_fault(folder, source, old, new, compiled=None):
    """The library of C files in one of which a piece of text, which it has once, is another one.

    Args:
        folder (Path): An empty one to compile in.
        source (str): The C file or header, as 'gated_cnn/gate.c'.
        old, new (str): The texts.
        compiled (list[str], optional): The C files, if not ``source`` alone.

    Returns:
        ctypes.CDLL: For the best instruction set of this processor.
    """
    text = (OPERATORS / source).read_text()
    assert text.count(old) == 1, f'{source} has {text.count(old)} times: {old}'
    changed = folder / source
    for part in (changed.parent.name, 'native'):
        shutil.copytree(OPERATORS / part, folder / part)
    changed.write_text(text.replace(old, new))
    best = native.usable_instruction_sets()[0]
    library = folder / 'faulty.so'
    command = [*compiling.find_compiler(), *compiling.FLAGS, *compiling.INSTRUCTION_SETS[best]]
    command += [folder / file for file in (*(compiled or [source]), 'native/parallel.c')]
    command += ['-o', library]
    subprocess.run([str(part) for part in command], check=True)
    loaded = ctypes.CDLL(str(library))
    loaded.use_parallel_region(ctypes.cast(ctypes.CDLL(None).GOMP_parallel, ctypes.c_void_p))
    return loaded
