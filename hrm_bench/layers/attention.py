"""Multi-head self-attention with rotary positions, on the windows of a batch.

Shapes: B lanes, T characters, D width, H heads, K head width (D = H·K).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from hrm_bench.layers.dropout import Dropout

ROTARY_BASE = 10_000.0


def split_heads(hidden: Tensor, num_heads: int) -> Tensor:
    """Split the width into heads: (B, T, D) → (B, H, T, K)."""
    return hidden.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def merge_heads(heads: Tensor) -> Tensor:
    """Join the heads: (B, H, T, K) → (B, T, D)."""
    return heads.transpose(1, 2).flatten(-2)


def rotary_angles(length: int, head_width: int) -> tuple[Tensor, Tensor]:
    """Return cosines and sines, (T, K/2) each, of position · base^(−2i/K) (RoFormer, arXiv 2104.09864, eq. 15)."""
    frequencies = ROTARY_BASE ** (-torch.arange(0, head_width, 2, dtype=torch.float64) / head_width)
    angles = torch.outer(torch.arange(length, dtype=torch.float64), frequencies)
    return angles.cos().float(), angles.sin().float()


def rotate(heads: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Turn each pair (i, i + K/2) of the last axis of (…, T, K) by its position's angle."""
    first, second = heads.chunk(2, dim=-1)  # (…, T, K/2) each
    return torch.cat((first * cosines - second * sines, second * cosines + first * sines), dim=-1)


class SelfAttention(nn.Module):
    """Multi-head attention over one window: (B, T, D) → (B, T, D), no biases, T at most ``window``.

    Without ``causal`` every position sees the whole window, its own target included; this exists to show that leak.
    """

    def __init__(self, *, width: int, num_heads: int, window: int, causal: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.causal = causal
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.dropout = Dropout("attention")
        cosines, sines = rotary_angles(window, width // num_heads)
        self.cosines: Tensor
        self.sines: Tensor
        self.register_buffer("cosines", cosines, persistent=False)
        self.register_buffer("sines", sines, persistent=False)

    def forward(self, hidden: Tensor) -> Tensor:
        length = hidden.shape[1]
        heads = split_heads(self.qkv(hidden), 3 * self.num_heads)  # (B, 3H, T, K)
        queries_keys, values = heads.split((2 * self.num_heads, self.num_heads), dim=1)
        queries, keys = rotate(queries_keys, self.cosines[:length], self.sines[:length]).chunk(2, dim=1)
        mixed = functional.scaled_dot_product_attention(queries, keys, values, is_causal=self.causal)
        return self.dropout(self.output(merge_heads(mixed)))
