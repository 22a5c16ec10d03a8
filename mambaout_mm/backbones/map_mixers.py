"""Global token mixers of a map (N, H, W, D): a state space model, and attention."""

import math

import torch
from timm.layers import RotaryEmbeddingCat, apply_rot_embed_cat
from torch import Tensor, nn
from torch.nn import functional as F

from mambaout_mm.errors import near_names
from mambaout_mm.ops.scan_orders import cross_merge, cross_scan

from .mamba import init_decays, init_steps, selective_ssm

SCAN_DIRECTIONS = {'causal': 1, 'bidirectional': 2, 'cross': 4}
HEAD_DIM = 32  # at least, of attention; that of CAFormer (arXiv 2210.13452), by the same authors
ROPE_TEMPERATURE = 100.0  # for two axes: RoPE-ViT, arXiv 2403.13298, section 3.2


class MapSSM(nn.Module):
    """Mamba's state space model along the tokens of a map: (N, H, W, D) to the same shape.

    Step sizes, B and C are computed from the input, for each direction by parameters of its own, as
    in VMamba (arXiv 2401.10166). The result is the mean over the directions, as in Vim (arXiv
    2401.09417), so that its size does not depend on their number.

    Args:
        channels (int): D.
        directions (str): 'causal', row by row from the first token; 'bidirectional', that and from
            the last; or 'cross', both by rows and by columns. Defaults to 'cross'.
        d_state (int): Size N of a channel's state. Defaults to 1, VMamba's.
        dt_rank (int, optional): Numbers from which a token's step sizes are computed. Defaults to
            None: ceil(D / 16), Mamba's and VMamba's rule.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        channels: int,
        directions: str = 'cross',
        d_state: int = 1,
        dt_rank: int | None = None,
    ) -> None:
        super().__init__()
        if directions not in SCAN_DIRECTIONS:
            raise ValueError(
                f'unknown directions {directions!r} of an SSM; '
                f'{near_names(str(directions), list(SCAN_DIRECTIONS))}'
            )
        rank = math.ceil(channels / 16) if dt_rank is None else dt_rank
        for name, value in (('d_state', d_state), ('dt_rank', rank)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f'{name} must be a positive integer, got {value!r}')
        self.directions = directions
        count = SCAN_DIRECTIONS[directions]
        self.x_proj_weight = nn.Parameter(torch.empty(count, rank + 2 * d_state, channels))
        self.dt_projs_weight = nn.Parameter(torch.empty(count, channels, rank))
        self.dt_projs_bias = nn.Parameter(torch.empty(count, channels))
        self.A_logs = nn.Parameter(torch.empty(count * channels, d_state))
        self.Ds = nn.Parameter(torch.ones(count * channels))
        nn.init.uniform_(self.x_proj_weight, -(channels**-0.5), channels**-0.5)
        init_steps(self.dt_projs_weight, self.dt_projs_bias)
        init_decays(self.A_logs)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        y = selective_ssm(
            self.scan(x),
            self.x_proj_weight,
            self.dt_projs_weight,
            self.dt_projs_bias.flatten(),
            self.A_logs,
            self.Ds,
        )  # (N, G, L, D)
        y = self.merge(y, height, width) / SCAN_DIRECTIONS[self.directions]
        return y.to(x.dtype)

    def scan(self, x: Tensor) -> Tensor:
        """A sequence for each direction of a map (N, H, W, D): (N, G, L, D)."""
        if self.directions == 'cross':
            return cross_scan(x)
        rows = x.flatten(1, 2)  # (N, L, D)
        return (
            rows[:, None] if self.directions == 'causal' else torch.stack((rows, rows.flip(1)), 1)
        )

    def merge(self, y: Tensor, height: int, width: int) -> Tensor:
        """Sum of all directions (N, G, L, D) as a map (N, height, width, D)."""
        if self.directions == 'cross':
            return cross_merge(y, height, width)
        rows = y[:, 0] if self.directions == 'causal' else y[:, 0] + y[:, 1].flip(1)
        return rows.unflatten(1, (height, width))


class MapAttention(nn.Module):
    """Softmax attention over all tokens of a map: (N, H, W, D) to the same shape.

    Queries and keys are rotated by their row and column (RoPE-ViT's axial form, arXiv 2403.13298),
    since nothing else in the body says where a token is.

    Args:
        channels (int): D, a multiple of 4; in heads of at least 32 channels where D has so many.
        causal (bool): Let a token attend to itself and to the tokens before it, row by row. The
            paper's figure 3 tests that. Defaults to False.

    Raises:
        ValueError: If D is not a multiple of 4.
    """

    def __init__(self, channels: int, causal: bool = False) -> None:
        super().__init__()
        if channels % 4:
            raise ValueError(
                f'attention turns queries by rows and columns, in multiples of 4 channels; got '
                f'{channels}'
            )
        self.causal = causal
        self.num_heads = next(
            heads
            for heads in range(max(1, channels // HEAD_DIM), 0, -1)
            if channels % (4 * heads) == 0
        )
        self.qkv = nn.Linear(channels, 3 * channels)
        self.rope = RotaryEmbeddingCat(
            channels // self.num_heads, in_pixels=False, temperature=ROPE_TEMPERATURE
        )

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        qkv = self.qkv(x.flatten(1, 2)).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (N, heads, L, D / heads) each
        turns = self.rope.get_embed([height, width])  # (L, 2 D / heads)
        q, k = (apply_rot_embed_cat(part, turns).to(v.dtype) for part in (q, k))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return y.transpose(1, 2).flatten(2).unflatten(1, (height, width))
