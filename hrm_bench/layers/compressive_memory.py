"""The compressive memory of Infini-attention (arXiv 2404.07143, section 2.1.2): what a lane keeps between windows.

Published: the key of a value is made of the value's own character, and the features σ = ELU + 1 are normalised by z.
What is written is then a bag of characters, and an answer is nearly the mean of all values. ``Association`` has the
alternatives.

Shapes: B lanes, T characters, D width, H heads, K head width.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from hrm_bench.layers.attention import split_heads
from hrm_bench.layers.gate import Gated

EPSILON = 1e-6


@dataclass(frozen=True, kw_only=True)
class Association:
    """How a compressive memory associates keys with values; the defaults are as published."""

    rule: Literal["linear", "delta"] = "linear"
    bind: Literal["same", "previous"] = "same"  # the character that is the key of a value: its own, or the one before
    features: Literal["elu", "l2"] = "elu"
    tie: bool = False  # whether keys are made as queries are, W_k = W_q
    gradient: Literal["none", "through"] = "none"  # whether a write keeps the graph of what it has written


PUBLISHED = Association()


class CompressiveMemory(NamedTuple):
    """An associative matrix per head, and the sum of the keys that were written into it."""

    matrix: Tensor  # (B, H, K, K)
    normalizer: Tensor  # (B, H, K)


class SignedMemory(NamedTuple):
    """An associative matrix per head; signed features have no normalizer."""

    matrix: Tensor  # (B, H, K, K)


AssociativeMemory = CompressiveMemory | SignedMemory


def empty_memory(
    num_lanes: int, num_heads: int, head_width: int, like: Tensor, how: Association = PUBLISHED
) -> AssociativeMemory:
    """Return a memory into which nothing was written: retrieval from it is zero. ``like`` gives its device and type."""
    matrix = like.new_zeros(num_lanes, num_heads, head_width, head_width)
    return (
        SignedMemory(matrix) if how.features == "l2" else CompressiveMemory(matrix, matrix.new_zeros(matrix.shape[:3]))
    )


def feature_map(heads: Tensor, how: Association = PUBLISHED) -> Tensor:
    """Return σ = ELU + 1, which is positive everywhere, or for ``l2`` SiLU of signed values at length 1."""
    if how.features == "l2":
        return functional.normalize(functional.silu(heads), dim=-1)
    return functional.elu(heads) + 1


def retrieve(memory: AssociativeMemory, queries: Tensor, how: Association = PUBLISHED) -> Tensor:
    """Return A_mem = σ(Q)·M / (σ(Q)·z + ε) (eq. 3), for ``l2`` σ(Q)·M: (B, H, T, K) queries → (B, H, T, K)."""
    return _lookup(memory, feature_map(queries, how))


def write(memory: AssociativeMemory, keys: Tensor, values: Tensor, how: Association = PUBLISHED) -> AssociativeMemory:
    """Return what (B, H, T, K) keys and values add to the memory.

    ``linear``: σ(K)ᵀV (eq. 4). ``delta``: σ(K)ᵀ(V − what the memory already answers to K) (eq. 5). If a value is bound
    to the character before it, the first character of a window has no key and writes nothing.
    """
    with torch.set_grad_enabled(how.gradient == "through" and torch.is_grad_enabled()):
        if how.bind == "previous":
            keys, values = keys[..., :-1, :], values[..., 1:, :]
        features = feature_map(keys, how)
        additions = values if how.rule == "linear" else values - _lookup(memory, features)
        matrix = features.transpose(-1, -2) @ additions
        return SignedMemory(matrix) if how.features == "l2" else CompressiveMemory(matrix, features.sum(dim=-2))


def mean_norm(memories: Iterable[AssociativeMemory]) -> Tensor:
    """Return the Frobenius norm of the matrices, mean over lanes, heads and memories."""
    return torch.stack([torch.linalg.matrix_norm(memory.matrix).mean() for memory in memories]).mean()


def _lookup(memory: AssociativeMemory, features: Tensor) -> Tensor:
    if isinstance(memory, SignedMemory):
        return features @ memory.matrix
    weights = features @ memory.normalizer.unsqueeze(-1)  # (B, H, T, 1)
    return (features @ memory.matrix) / (weights + EPSILON)


class MemoryLayer(Gated):
    """Base of the layers with a compressive memory: projections and a gate that starts at zero."""

    def __init__(self, *, width: int, num_heads: int, how: Association, gate_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_width = width // num_heads
        self.how = how
        self.qkv = nn.Linear(width, (2 if how.tie else 3) * width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.gate = nn.Parameter(torch.zeros(gate_shape))

    def project(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the queries, keys and values (B, H, T, K) of (B, T, D)."""
        parts = 2 if self.how.tie else 3
        queries, *others = split_heads(self.qkv(hidden), parts * self.num_heads).chunk(parts, dim=1)
        keys, values = (queries, *others) if self.how.tie else others
        return queries, keys, values

    def empty(self, num_lanes: int) -> AssociativeMemory:
        """Return an empty memory of this layer."""
        return empty_memory(num_lanes, self.num_heads, self.head_width, like=self.gate, how=self.how)
