"""Whether files may hold more than data.

Pickles and configs can hold code that runs as they are read. Everything in this package reads them
as data (``SECURITY.md``), unless the person at the keyboard says ``--trust``.
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_trusted = ContextVar('trusted', default=False)


def is_trusted() -> bool:
    """Whether checkpoints, predictions and the configs in them may run code."""
    return _trusted.get()


@contextmanager
def trusting(trust: bool) -> Iterator[None]:
    """Say whether files may run code, until the context ends.

    Args:
        trust (bool): False reads everything as data, also inside of a context with True.
    """
    before = _trusted.set(trust)
    try:
        yield
    finally:
        _trusted.reset(before)


def add_trust_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--trust`` to a tool's parser."""
    parser.add_argument(
        '--trust',
        action='store_true',
        help='let checkpoints, predictions and configs found in them run code: only for files that '
        'you or people you trust made',
    )
