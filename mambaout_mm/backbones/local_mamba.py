"""What LocalVMamba and LocalVim share (arXiv 2403.09338): scan orders and the channel gate.

The names of the orders are those of :mod:`mambaout_mm.ops.scan_orders`. The lists are what the
authors' search found for each block (hunto/LocalMamba ``classification/lib/models`` at 75e5d1f); a
stage starts on a new line.

Weights of both: github.com/hunto/LocalMamba, release ``v1.0.0``, Apache-2.0.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from mambaout_mm.ops.scan_orders import DIRECTIONS
from mambaout_mm.ops.torch_versions import GELU

WEIGHTS = 'https://github.com/hunto/LocalMamba/releases/download/v1.0.0/{}.ckpt'

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


class ChannelGate(nn.Module):
    """Multiply each channel by a number from 0 to 1 that depends on the mean over all tokens.

    ``t * sigmoid(W2 gelu(W1 mean(norm(t))))``: ``BiAttn`` of hunto/LocalMamba at 75e5d1f, without
    its spatial branch, which no released model has.

    Args:
        dim (int): Channels D; the hidden layer has int(D / 8).
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-5)
        self.global_reduce = nn.Linear(dim, dim // 8)
        self.act = GELU()
        self.channel_select = nn.Linear(dim // 8, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Gate tokens (..., L, D)."""
        mean = self.norm(tokens).mean(-2, keepdim=True)  # (..., 1, D)
        return tokens * self.channel_select(self.act(self.global_reduce(mean))).sigmoid()
