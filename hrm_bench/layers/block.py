"""The block that every architecture of the reports is made of, and a stack of it.

Shapes: B lanes, T characters, D width, F hidden width of the feed-forward.
"""

from torch import Tensor, nn
from torch.nn import functional

from hrm_bench.layers.attention import SelfAttention
from hrm_bench.layers.dropout import Dropout

NORM_EPSILON = 1e-6


class GatedFeedForward(nn.Module):
    """SiLU(x·W_gate) ⊙ (x·W_up) · W_down, without biases (SwiGLU, arXiv 2002.05202, eq. 6)."""

    def __init__(self, *, width: int, hidden_width: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(width, 2 * hidden_width, bias=False)
        self.down = nn.Linear(hidden_width, width, bias=False)
        self.dropout = Dropout("feed_forward")

    def forward(self, hidden: Tensor) -> Tensor:
        gate, up = self.gate_up(hidden).chunk(2, dim=-1)  # (B, T, F) each
        return self.down(self.dropout(functional.silu(gate) * up))


class Block(nn.Module):
    """Attention, then the feed-forward, each followed by RMSNorm of the residual sum: post-norm, as in HRM."""

    def __init__(self, *, width: int, num_heads: int, hidden_width: int, window: int, causal: bool) -> None:
        super().__init__()
        self.attention = SelfAttention(width=width, num_heads=num_heads, window=window, causal=causal)
        self.attention_norm = nn.RMSNorm(width, eps=NORM_EPSILON)
        self.feed_forward = GatedFeedForward(width=width, hidden_width=hidden_width)
        self.feed_forward_norm = nn.RMSNorm(width, eps=NORM_EPSILON)

    def forward(self, hidden: Tensor) -> Tensor:  # (B, T, D) → (B, T, D)
        hidden = self.attention_norm(hidden + self.attention(hidden))
        return self.feed_forward_norm(hidden + self.feed_forward(hidden))


def stack(
    *, num_layers: int, width: int, num_heads: int, hidden_width: int, window: int, causal: bool
) -> nn.Sequential:
    """``num_layers`` blocks one after another: what the HRM paper calls a module (L or H)."""
    return nn.Sequential(
        *(
            Block(width=width, num_heads=num_heads, hidden_width=hidden_width, window=window, causal=causal)
            for _ in range(num_layers)
        )
    )
