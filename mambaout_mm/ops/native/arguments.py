"""Arguments of C kernels."""

import ctypes


def fields(pointers: str, numbers: str) -> list[tuple[str, type]]:
    """Fields of a ``ctypes.Structure``: names of pointers, then names of long integers."""
    return [
        *((name, ctypes.c_void_p) for name in pointers.split()),
        *((name, ctypes.c_long) for name in numbers.split()),
    ]
