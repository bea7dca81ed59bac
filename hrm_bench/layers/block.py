"""The block that every architecture of the reports is made of, and a stack of blocks.

Shapes: B lanes, T characters, D width, F hidden width of the feed-forward.
"""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from hrm_bench.errors import ConfigFault
from hrm_bench.layers.attention import SelfAttention
from hrm_bench.layers.dropout import Dropout

NORM_EPSILON = 1e-6


@dataclass(frozen=True, kw_only=True)
class BlockConfig:
    """The sizes of an architecture made of blocks."""

    width: int  # D
    num_heads: int
    hidden_width: int  # F
    num_layers: int  # blocks per stack
    causal: bool  # false only to show the leak

    def __post_init__(self) -> None:
        if self.width % (2 * self.num_heads):
            fitting = [number for number in range(1, self.width // 2 + 1) if self.width % (2 * number) == 0]
            nearest = min(fitting, key=lambda number: abs(number - self.num_heads), default=None)
            hint = f"model.num_heads={nearest}" if nearest else "model.width=64"
            raise ConfigFault(
                "num_heads",
                f"model.num_heads={self.num_heads}: must divide model.width={self.width} into heads of even width; "
                f"try {hint}",
            )


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

    def __init__(self, config: BlockConfig, *, window: int) -> None:
        super().__init__()
        self.attention = SelfAttention(
            width=config.width, num_heads=config.num_heads, window=window, causal=config.causal
        )
        self.attention_norm = nn.RMSNorm(config.width, eps=NORM_EPSILON)
        self.feed_forward = GatedFeedForward(width=config.width, hidden_width=config.hidden_width)
        self.feed_forward_norm = nn.RMSNorm(config.width, eps=NORM_EPSILON)

    def forward(self, hidden: Tensor) -> Tensor:  # (B, T, D) → (B, T, D)
        hidden = self.attention_norm(hidden + self.attention(hidden))
        return self.feed_forward_norm(hidden + self.feed_forward(hidden))


def stack(config: BlockConfig, *, window: int) -> nn.Sequential:
    """Return ``num_layers`` blocks, one after another: what the HRM paper calls a module (L or H)."""
    return nn.Sequential(*(Block(config, window=window) for _ in range(config.num_layers)))
