"""Dropout as the recipes use it, and the two ends of a model that have it: its embedding and its head.

Shapes: B lanes, T characters, D width, V vocabulary.
"""

from typing import Literal

from torch import Tensor, nn

Place = Literal["embedding", "attention", "feed_forward", "head"]


class Dropout(nn.Module):
    """Zeroes a share of a lane's features, the same at every character of a window (arXiv 1512.05287, section 4.2).

    A mask has one number a lane and feature, not one a character, which also costs next to nothing. ``place`` says
    which of the recipe's rates it takes; it is built with rate 0, where it does nothing and draws nothing.
    """

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.place = place
        self.rate = 0.0

    def forward(self, hidden: Tensor) -> Tensor:  # (B, T, D) → (B, T, D)
        if not self.training or self.rate == 0:
            return hidden
        kept = hidden.new_empty(hidden.shape[0], 1, hidden.shape[2]).bernoulli_(1 - self.rate)
        return hidden * (kept / (1 - self.rate))


class Embedding(nn.Embedding):
    """A vector a character, with dropout: (B, T) → (B, T, D)."""

    def __init__(self, vocabulary_size: int, width: int) -> None:
        super().__init__(vocabulary_size, width)
        self.dropout = Dropout("embedding")

    def forward(self, tokens: Tensor) -> Tensor:
        return self.dropout(super().forward(tokens))


class Head(nn.Linear):
    """Logits of the next character, with dropout of what it reads: (B, T, D) → (B, T, V)."""

    def __init__(self, width: int, vocabulary_size: int, *, bias: bool = False) -> None:
        super().__init__(width, vocabulary_size, bias=bias)
        self.dropout = Dropout("head")

    def forward(self, hidden: Tensor) -> Tensor:
        return super().forward(self.dropout(hidden))
