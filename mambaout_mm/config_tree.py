"""Walking through a config."""

from collections.abc import Iterator
from typing import Any


def dicts_in(node: Any, path: str = '') -> Iterator[tuple[str, dict]]:
    """Every dict inside a config, itself included, outer ones first.

    Args:
        node (Any): A dict, list or tuple; anything else holds no dict.
        path (str): Dotted path of ``node``. Defaults to ''.

    Yields:
        tuple[str, dict]: The dict's dotted path, as ``--cfg-options`` would write it, and the dict.
    """
    if isinstance(node, dict):
        yield path, node
        items = list(node.items())
    elif isinstance(node, list | tuple):
        items = list(enumerate(node))
    else:
        return
    for key, child in items:
        yield from dicts_in(child, f'{path}.{key}' if path else str(key))
