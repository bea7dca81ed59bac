"""Dropout as the recipes use it, and the two ends of a model that have it: its embedding and its head.

Shapes: B lanes, T characters, D width, V vocabulary.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

Site = Literal["embedding", "attention", "feed_forward", "head"]


class Dropout(nn.Module):
    """Sets a fraction of a lane's features to zero, the same at all characters of a window.

    So a mask has one number per lane and feature, not per character, and costs next to nothing (arXiv 1512.05287,
    section 4). ``site`` says which rate of the recipe applies. A new layer has rate 0, at which it changes nothing and
    draws nothing.
    """

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.site = site
        self.rate = 0.0

    def forward(self, hidden: Tensor) -> Tensor:  # (B, T, D) → (B, T, D)
        if not self.training or self.rate == 0:
            return hidden
        mask = hidden.new_empty(hidden.shape[0], 1, hidden.shape[2]).bernoulli_(1 - self.rate)
        return hidden * (mask / (1 - self.rate))


class Embedding(nn.Embedding):
    """One vector per character, with dropout: (B, T) → (B, T, D)."""

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


@dataclass(frozen=True)
class CharacterDropout:
    """A transform of training batches that replaces a fraction of the characters read by random ones.

    Each replacement is drawn uniformly from the vocabulary, so it may be the same character again. Targets stay.
    """

    rate: float
    vocabulary_size: int

    def __call__(self, tokens: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        replaced = torch.rand(tokens.shape, device=tokens.device) < self.rate
        return torch.where(replaced, torch.randint_like(tokens, self.vocabulary_size), tokens), targets
