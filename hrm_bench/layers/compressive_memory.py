"""The compressive memory of Infini-attention (arXiv 2404.07143, section 2.1.2): what a lane keeps between windows.

Shapes: B lanes, T characters, D width, H heads, K head width.
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from hrm_bench.layers.attention import split_heads
from hrm_bench.layers.gate import Gated

WriteRule = Literal["linear", "delta"]

EPSILON = 1e-6


class CompressiveMemory(NamedTuple):
    """An associative matrix per head, and the sum of the keys that were written into it."""

    matrix: Tensor  # (B, H, K, K)
    normalizer: Tensor  # (B, H, K)


def empty_memory(num_lanes: int, num_heads: int, head_width: int, like: Tensor) -> CompressiveMemory:
    """Return a memory into which nothing was written: retrieval from it is zero. ``like`` gives its device and type."""
    return CompressiveMemory(
        like.new_zeros(num_lanes, num_heads, head_width, head_width),
        like.new_zeros(num_lanes, num_heads, head_width),
    )


def feature_map(heads: Tensor) -> Tensor:
    """Return σ = ELU + 1, which is positive everywhere."""
    return functional.elu(heads) + 1


def retrieve(memory: CompressiveMemory, queries: Tensor) -> Tensor:
    """Return A_mem = σ(Q)·M / (σ(Q)·z + ε) (eq. 3): (B, H, T, K) queries → (B, H, T, K)."""
    return _lookup(memory, feature_map(queries))


def write(memory: CompressiveMemory, keys: Tensor, values: Tensor, rule: WriteRule) -> CompressiveMemory:
    """Return what (B, H, T, K) keys and values add to the memory, without gradient.

    ``linear``: σ(K)ᵀV (eq. 4). ``delta``: σ(K)ᵀ(V − what the memory already answers to K) (eq. 5).
    """
    with torch.no_grad():
        features = feature_map(keys)
        additions = values if rule == "linear" else values - _lookup(memory, features)
        return CompressiveMemory(features.transpose(-1, -2) @ additions, features.sum(dim=-2))


def mean_norm(memories: Iterable[CompressiveMemory]) -> Tensor:
    """Return the Frobenius norm of the matrices, mean over lanes, heads and memories."""
    return torch.stack([torch.linalg.matrix_norm(memory.matrix).mean() for memory in memories]).mean()


def _lookup(memory: CompressiveMemory, features: Tensor) -> Tensor:
    weights = features @ memory.normalizer.unsqueeze(-1)  # (B, H, T, 1)
    return (features @ memory.matrix) / (weights + EPSILON)


class MemoryLayer(Gated):
    """Base of the layers with a compressive memory: projections and a gate that starts at zero."""

    def __init__(self, *, width: int, num_heads: int, rule: WriteRule, gate_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_width = width // num_heads
        self.rule: WriteRule = rule
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.gate = nn.Parameter(torch.zeros(gate_shape))

    def project(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the queries, keys and values (B, H, T, K) of (B, T, D)."""
        queries, keys, values = split_heads(self.qkv(hidden), 3 * self.num_heads).chunk(3, dim=1)
        return queries, keys, values
