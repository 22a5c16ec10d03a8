"""Catalogue names of published files.

``mambaout://<variant>`` are the ImageNet-1K classification weights that the authors released
(github.com/yuweihao/MambaOut, release ``model``, Apache-2.0). They publish no checksums.
"""

from mambaout_mm.errors import near_names

from .errors import CheckpointError

SCHEME = 'mambaout://'
_RELEASE = 'https://github.com/yuweihao/MambaOut/releases/download/model/mambaout_{}.pth'

CATALOGUE: dict[str, str] = {
    f'{SCHEME}{variant}': _RELEASE.format(variant)
    for variant in ('femto', 'kobe', 'tiny', 'small', 'base')
}


def resolve(name: str) -> str:
    """The URL behind a catalogue name such as ``mambaout://tiny``.

    Raises:
        CheckpointError: If the catalogue does not have the name.
    """
    if name not in CATALOGUE:
        raise CheckpointError(
            f'{name!r} is not in the catalogue of checkpoints; {near_names(name, list(CATALOGUE))}'
            ' (weights of the *_rw variants: timm://mambaout_base_plus_rw and so on)'
        )
    return CATALOGUE[name]
