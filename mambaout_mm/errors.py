"""Errors whose messages are written for the person at the keyboard, and how tools show them."""

import argparse
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches

from .version import __version__


class UserError(Exception):
    """Something the user gave does not fit.

    The message says what is wrong, with which value, and what to do; the tools print it without a
    traceback and exit with code 1.
    """


class CheckpointError(UserError):
    """A checkpoint cannot be read, or does not fit the model that asked for it."""


class UnknownLayoutError(CheckpointError):
    """A state dict shows no sign of the family that it was taken for."""


def near_names(name: str, known: list[str], limit: int = 4) -> str:
    """Words for an error message: the known names closest to a misspelt one.

    Args:
        name (str): What was typed.
        known (list[str]): The names that exist.
        limit (int): How many to offer at most. Defaults to 4.

    Returns:
        str: ``'did you mean a, b?'``, or the list of known names where none is close and the list
        can be read.
    """
    close = get_close_matches(name, known, n=limit, cutoff=0.6 if len(known) <= 40 else 0)
    if close:
        return f'did you mean {", ".join(close)}?'
    return f'known: {", ".join(sorted(known))}'


def add_debug_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--debug`` to a tool's parser."""
    parser.add_argument(
        '--debug',
        action='store_true',
        help='show the traceback of an unexpected error, or of the one behind a sentence',
    )


@contextmanager
def exit_with_a_sentence(debug: bool = False) -> Iterator[None]:
    """End a tool by a sentence on stderr in place of a traceback.

    A :class:`UserError` and an unexpected error exit with code 1, Ctrl-C with 130. The traceback of
    an unexpected error goes to a file, which the sentence names.

    Args:
        debug (bool): Let unexpected errors through, and show the traceback of an error that a
            sentence stands for. Defaults to False.
    """
    try:
        yield
    except UserError as error:
        if debug and error.__cause__ is not None:
            traceback.print_exception(error.__cause__)
        sys.exit(f'error: {error}')
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        sys.exit(130)  # 128 + SIGINT, as shells report it
    except Exception as error:
        if debug:
            raise
        sys.exit(_unexpected(error))


def _unexpected(error: Exception) -> str:
    first_line = (str(error).strip().splitlines() or [''])[0]
    trace = ''.join(traceback.format_exception(error))
    command = ' '.join(map(repr, sys.argv))
    sentence = (
        f'error: unexpected, so probably a mistake in mambaout_mm: {type(error).__name__}: '
        f'{first_line}.'
    )
    try:
        with tempfile.NamedTemporaryFile(
            'w', prefix='mambaout_mm-', suffix='.txt', delete=False, encoding='utf-8'
        ) as file:
            file.write(f'command: {command}\nmambaout_mm {__version__}\n{trace}')
    except OSError:
        return f'{trace}{sentence} Please report it with these lines'
    return (
        f'{sentence} The traceback is in {file.name}; please report it with that file to the '
        'maintainers of mambaout_mm. --debug shows it here'
    )
