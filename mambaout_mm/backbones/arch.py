"""What ``arch`` means to every family: a published variant's name, or a dict of its numbers."""

from collections.abc import Mapping
from typing import Any

from mambaout_mm.errors import near_names


def look_up(
    family: str, arch: str | Mapping[str, Any], architectures: Mapping[str, Mapping[str, Any]]
) -> Mapping[str, Any]:
    """The numbers behind a variant's name; a dict is returned as it is.

    Raises:
        ValueError: If the name is unknown.
    """
    if not isinstance(arch, str):
        return arch
    if arch not in architectures:
        raise ValueError(
            f'unknown {family} arch {arch!r}; known: {", ".join(architectures)}, or a dict with '
            'depths and dims'
        )
    return architectures[arch]


def complete(arch: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """All numbers of a variant, given those that differ from the defaults.

    Raises:
        ValueError: If a key is unknown, or ``depths`` or ``dims`` is missing.
    """
    known = ['depths', 'dims', *defaults]
    for key in arch:
        if key not in known:
            raise ValueError(f'unknown key {key!r} in arch; {near_names(key, known)}')
    if 'depths' not in arch or 'dims' not in arch:
        raise ValueError(f'arch needs depths and dims, got only {sorted(arch)}')
    numbers = {**defaults, **arch}
    # Configs and command lines bring lists.
    numbers['depths'], numbers['dims'] = tuple(numbers['depths']), tuple(numbers['dims'])
    return numbers
