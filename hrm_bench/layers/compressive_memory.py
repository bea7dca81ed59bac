"""The compressive memory of Infini-attention (arXiv 2404.07143, section 2.1.2): what a lane keeps between windows.

Shapes: B lanes, T characters, H heads, K head width.
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

WriteRule = Literal["linear", "delta"]

EPSILON = 1e-6


class Memory(NamedTuple):
    """An associative matrix a head, and the sum of the keys that were written into it."""

    matrix: Tensor  # (B, H, K, K)
    normalizer: Tensor  # (B, H, K)

    def __add__(self, update: "Memory") -> "Memory":  # type: ignore[override]
        """The memory after an update: both write rules only ever add."""
        return Memory(self.matrix + update.matrix, self.normalizer + update.normalizer)

    def detach(self) -> "Memory":
        return Memory(self.matrix.detach(), self.normalizer.detach())

    @staticmethod
    def joined(parts: "Iterable[Memory]") -> "Memory":
        """The lanes of these, one after another."""
        return Memory(*map(torch.cat, zip(*parts, strict=True)))

    def lanes(self, start: int, end: int) -> "Memory":
        """The lanes from ``start`` to before ``end``."""
        return Memory(self.matrix[start:end], self.normalizer[start:end])


def empty_memory(num_lanes: int, num_heads: int, head_width: int, like: Tensor) -> Memory:
    """A memory that nothing was written into: retrieval from it is zero. Device and type are those of ``like``."""
    return Memory(
        like.new_zeros(num_lanes, num_heads, head_width, head_width),
        like.new_zeros(num_lanes, num_heads, head_width),
    )


def feature_map(heads: Tensor) -> Tensor:
    """σ = ELU + 1, positive everywhere."""
    return functional.elu(heads) + 1


def retrieve(memory: Memory, queries: Tensor) -> Tensor:
    """A_mem = σ(Q)·M / (σ(Q)·z + ε) (eq. 3): (B, H, T, K) queries → (B, H, T, K)."""
    return _lookup(memory, feature_map(queries))


def write(memory: Memory, keys: Tensor, values: Tensor, rule: WriteRule) -> Memory:
    """What (B, H, T, K) keys and values add to the memory, without gradient.

    ``linear``: σ(K)ᵀV (eq. 4). ``delta``: σ(K)ᵀ(V − what the memory already answers to K) (eq. 5).
    """
    with torch.no_grad():
        features = feature_map(keys)
        news = values if rule == "linear" else values - _lookup(memory, features)
        return Memory(features.transpose(-1, -2) @ news, features.sum(dim=-2))


def _lookup(memory: Memory, features: Tensor) -> Tensor:
    weights = features @ memory.normalizer.unsqueeze(-1)  # (B, H, T, 1)
    return (features @ memory.matrix) / (weights + EPSILON)
