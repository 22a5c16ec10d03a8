"""Which orders each block of LocalMamba's networks scans in (arXiv 2403.09338).

The names are those of :mod:`mambaout_mm.ops.local_scan`, the lists what the authors' search found
(hunto/LocalMamba ``classification/lib/models`` at 75e5d1f). A stage starts on a new line.
"""

from collections.abc import Sequence

from mambaout_mm.ops.scan_orders import DIRECTIONS

Directions = tuple[tuple[str, ...], ...]


def _names_of_blocks(text: str) -> Directions:
    return tuple(tuple(block.split()) for block in text.split(','))


LOCALVMAMBA_TINY = _names_of_blocks("""
    h h_flip w7 w7_flip, h_flip v_flip w2 w2_flip,
    h_flip v_flip w2_flip w7, h_flip v v_flip w2,
    h h_flip v_flip w2_flip, h_flip v_flip w2 w2_flip, h w2_flip w7 w7_flip, h h_flip v v_flip,
    h v_flip w7 w7_flip, h_flip v w2 w7_flip, v v_flip w2 w7_flip, h h_flip v_flip w2_flip,
    v_flip w2_flip w7 w7_flip,
    h_flip v_flip w2_flip w7_flip, h_flip v w7 w7_flip
""")
LOCALVMAMBA_SMALL = _names_of_blocks("""
    h v v_flip w7_flip, h h_flip v w7,
    h_flip v v_flip w7, h_flip v w2_flip w7,
    h_flip v w2_flip w7, h_flip v_flip w2 w7_flip, h_flip v v_flip w7, h v v_flip w7, h v v_flip w7,
    h v v_flip w7_flip, h h_flip v v_flip, h v v_flip w2, v v_flip w2_flip w7, h h_flip v w2,
    h_flip v v_flip w7_flip, h h_flip v v_flip, h v v_flip w7_flip, h v v_flip w7_flip,
    h h_flip v_flip w7, h_flip v_flip w2_flip w7, h_flip v v_flip w7_flip, v v_flip w7 w7_flip,
    h v v_flip w7_flip, h_flip v v_flip w2, h v v_flip w2_flip, h h_flip v w7, h h_flip w7 w7_flip,
    h v_flip w2 w2_flip, h v_flip w2 w7, h v v_flip w7_flip, h_flip v w2_flip w7,
    h_flip v_flip w7 w7_flip, h v w7 w7_flip
""")
LOCALVIM_TINY = _names_of_blocks("""
    h v_flip w7 w7_flip, h_flip w2_flip w7 w7_flip, h h_flip v w7, h h_flip v v_flip,
    h h_flip v v_flip, h h_flip v v_flip, h_flip v v_flip w7, h_flip v v_flip w2_flip,
    h h_flip v v_flip, h h_flip v v_flip, h v v_flip w2, h v v_flip w2_flip,
    h h_flip v_flip w7, h_flip v v_flip w2, h h_flip v v_flip, h v w2 w2_flip,
    v v_flip w2 w7, h h_flip v w2, h h_flip w2_flip w7, v v_flip w2 w2_flip
""")

# LocalVim-S: its factory is defined twice, and the second definition, without a search, counts.
DEFAULT = ('h', 'h_flip', 'w2', 'w2_flip')


def complete_directions(directions: Sequence[Sequence[str]] | None, blocks: int) -> Directions:
    """Directions of each block, ``DEFAULT`` in all where none are given.

    Args:
        directions (Sequence[Sequence[str]], optional): Four names for each block.
        blocks (int): How many blocks there are.

    Raises:
        ValueError: If they are not four known names for each block.
    """
    if directions is None:
        return (DEFAULT,) * blocks
    if not isinstance(directions, list | tuple) or len(directions) != blocks:
        raise ValueError(
            f'directions must be four names for each of the {blocks} blocks, got {directions!r}'
        )
    for four in directions:
        if not isinstance(four, list | tuple) or len(four) != 4 or not set(four) <= set(DIRECTIONS):
            raise ValueError(
                f'directions of a block must be four of {", ".join(DIRECTIONS)}; got {four!r}'
            )
    return tuple(map(tuple, directions))
