"""The one error type whose message is written for the person at the keyboard."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches


class UserError(Exception):
    """Something the user gave does not fit.

    The message says what is wrong, with which value, and what to do; the tools print it without a
    traceback and exit with code 1.
    """


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


@contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Turn a :class:`UserError` into one message on stderr and exit code 1."""
    try:
        yield
    except UserError as error:
        sys.exit(f'error: {error}')
