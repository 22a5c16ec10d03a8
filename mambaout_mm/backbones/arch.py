"""What ``arch`` and ``scan`` mean to every family that has them."""

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
            f'unknown {family} arch {arch!r}; known: {", ".join(architectures)}, or a dict of its '
            'numbers'
        )
    return architectures[arch]


def complete(
    arch: Mapping[str, Any], defaults: Mapping[str, Any], width: str = 'dims'
) -> dict[str, Any]:
    """All numbers of a variant, given those that differ from the defaults.

    Args:
        arch (Mapping[str, Any]): The given ones.
        defaults (Mapping[str, Any]): Of all but the depths and the width.
        width (str): Key of the channels: 'dims' of the stages, or the 'dim' of a plain network.
            Defaults to 'dims'.

    Raises:
        ValueError: If a key is unknown, or ``depths`` or the width is missing.
    """
    known = ['depths', width, *defaults]
    for key in arch:
        if key not in known:
            raise ValueError(f'unknown key {key!r} in arch; {near_names(key, known)}')
    if 'depths' not in arch or width not in arch:
        raise ValueError(f'arch needs depths and {width}, got only {sorted(arch)}')
    # Configs and command lines bring lists.
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in {**defaults, **arch}.items()
    }


def is_published(scan: str) -> bool:
    """Whether ``scan`` asks for the authors' code with the defect that its weights depend on.

    Raises:
        ValueError: If it is neither 'published' nor 'corrected'.
    """
    if scan not in ('corrected', 'published'):
        raise ValueError(f"scan must be 'corrected' or 'published', got {scan!r}")
    return scan == 'published'
