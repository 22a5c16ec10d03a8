"""Catalogue names of published files: ``<family>://<variant>``.

The families bring the names with them, each in its own file of :mod:`mambaout_mm.backbones`: an
ImageNet-1K classifier as its authors released it, or, as in ``vmamba-det://tiny_s1l8`` and
``vmamba-seg://tiny_s1l8``, a detector or segmentor. Only DeiT's authors give checksums, in the
names of their files.
"""

from collections.abc import Mapping

from mambaout_mm.errors import CheckpointError, near_names

CATALOGUE: dict[str, str] = {}  # addresses
UNPUBLISHED: dict[str, str] = {}  # why nobody can have weights of that name
MIRRORS: dict[str, str] = {}  # timm's names of the same weights


def add_weights(
    addresses: Mapping[str, str], unpublished: Mapping[str, str], mirrors: Mapping[str, str]
) -> None:
    """Put a family's published weights into the catalogue.

    Args:
        addresses (Mapping[str, str]): From a name such as ``mambaout://tiny`` to a URL.
        unpublished (Mapping[str, str]): From a name to the reason why nobody can have its weights,
            in words that follow "there are no weights of that name: ".
        mirrors (Mapping[str, str]): From a name to the name under which timm has the same weights,
            such as ``timm://mambaout_tiny.in1k``.
    """
    CATALOGUE.update(addresses)
    UNPUBLISHED.update(unpublished)
    MIRRORS.update(mirrors)


def is_named(checkpoint: str) -> bool:
    """Whether a checkpoint is given by a family's scheme, as in ``mambaout://``."""
    scheme = checkpoint.partition('://')[0]
    return any(name.startswith(f'{scheme}://') for name in CATALOGUE)


def resolve(name: str) -> str:
    """The URL behind a catalogue name such as ``mambaout://tiny``.

    Raises:
        CheckpointError: If the catalogue does not have the name.
    """
    if name in UNPUBLISHED:
        raise CheckpointError(
            f'there are no weights {name}: {UNPUBLISHED[name]}. Give the path of your own as '
            'checkpoint, or, to train from random weights on purpose, set init_cfg=None'
        )
    if name not in CATALOGUE:
        raise CheckpointError(
            f'{name!r} is not in the catalogue of checkpoints; {near_names(name, list(CATALOGUE))}'
        )
    return CATALOGUE[name]
