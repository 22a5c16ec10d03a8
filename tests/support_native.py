"""C kernels with a fault in them, to see that tests find it."""

import ctypes
import shutil
import subprocess

from support import ROOT

from mambaout_mm.ops import native
from mambaout_mm.ops.native import compiling

OPERATORS = ROOT / 'mambaout_mm' / 'ops'


def library_with_fault(folder, source, old, new):
    """The library of one C file in which a piece of text, which it has once, is another one.

    Args:
        folder (Path): An empty one to compile in.
        source (str): The C file, as 'gated_cnn/gate.c'.
        old, new (str): The texts.

    Returns:
        ctypes.CDLL: For the best instruction set of this processor.
    """
    text = (OPERATORS / source).read_text()
    assert text.count(old) == 1, f'{source} has {text.count(old)} times: {old}'
    changed = folder / source
    changed.parent.mkdir()
    changed.write_text(text.replace(old, new))
    shutil.copytree(OPERATORS / 'native', folder / 'native')
    best = native.usable_instruction_sets()[0]
    library = folder / 'faulty.so'
    command = [*compiling.find_compiler(), *compiling.FLAGS, *compiling.INSTRUCTION_SETS[best]]
    command += [changed, folder / 'native' / 'parallel.c', '-o', library]
    subprocess.run([str(part) for part in command], check=True)
    loaded = ctypes.CDLL(str(library))
    loaded.use_parallel_region(ctypes.cast(ctypes.CDLL(None).GOMP_parallel, ctypes.c_void_p))
    return loaded
