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
        ValueError: If a key is unknown, ``depths`` or the width is missing, or one of them or
            ``d_state`` has the wrong type.
    """
    known = ['depths', width, *defaults]
    for key in arch:
        if key not in known:
            raise ValueError(f'unknown key {key!r} in arch; {near_names(key, known)}')
    if 'depths' not in arch or width not in arch:
        raise ValueError(f'arch needs depths and {width}, got only {sorted(arch)}')
    # Configs and command lines bring lists.
    numbers = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in {**defaults, **arch}.items()
    }
    for name in {'depths', 'dims'} & numbers.keys():
        values = numbers[name]
        if not isinstance(values, tuple) or len(values) != 4 or not all(map(_is_count, values)):
            raise ValueError(f'{name} must be four positive integers, got {values!r}')
    for name in {'dim', 'd_state', 'head_dim', 'patch_size'} & numbers.keys():
        if not _is_count(numbers[name]):
            raise ValueError(f'{name} must be a positive integer, got {numbers[name]!r}')
    return numbers


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and value > 0


def is_published(scan: str) -> bool:
    """Whether ``scan`` asks for the authors' code with the defect that its weights depend on.

    Raises:
        ValueError: If it is neither 'published' nor 'corrected'.
    """
    if scan not in ('corrected', 'published'):
        raise ValueError(f"scan must be 'corrected' or 'published', got {scan!r}")
    return scan == 'published'
