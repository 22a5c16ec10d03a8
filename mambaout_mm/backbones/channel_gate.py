"""The channel gate of LocalMamba and EfficientVMamba."""

from torch import Tensor, nn


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
        self.act = nn.GELU()
        self.channel_select = nn.Linear(dim // 8, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Gate tokens (..., L, D)."""
        mean = self.norm(tokens).mean(-2, keepdim=True)  # (..., 1, D)
        return tokens * self.channel_select(self.act(self.global_reduce(mean))).sigmoid()
