"""C kernels with a fault in them, to see that tests find it."""

import ctypes
import shutil
import subprocess

from support import ROOT

from mambaout_mm.ops import native
from mambaout_mm.ops.native import compiling

OPERATORS = ROOT / 'mambaout_mm' / 'ops'


def library_with_fault(folder, source, old, new):
    """All kernels, with another text for a piece of text that a source has once.

    Args:
        folder (Path): An empty one to compile in.
        source (str): The C file or header, as 'gated_cnn/gate.c'.
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
    best = native.usable_instruction_sets()[0]
    library = folder / 'faulty.so'
    command = [*compiling.find_compiler(), *compiling.FLAGS, *compiling.INSTRUCTION_SETS[best]]
    command += ['-O1', *folder.glob('*/*.c'), '-o', library]  # compiles faster, errs the same
    subprocess.run([str(part) for part in command], check=True)
    loaded = ctypes.CDLL(str(library))
    loaded.use_parallel_region(ctypes.cast(ctypes.CDLL(None).GOMP_parallel, ctypes.c_void_p))
    return loaded
