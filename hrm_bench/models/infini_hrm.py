"""Infini-HRM: one Infini-attention layer (arXiv 2404.07143) between the embedding and the HRM.

    A_local = causal attention of the window on itself, without positions
    A_mem   = σ(Q)·M / (σ(Q)·z + ε)                                (eq. 3)
    A       = sigmoid(g) ⊙ A_mem + (1 − sigmoid(g)) ⊙ A_local      (eq. 6, a gate g a head)
    x       = A·W_o, which replaces the embedding as the HRM's input
    M      += σ(K)ᵀV,  z += Σ σ(K), or the delta rule             (eq. 4, 5)

# differs from the paper: M is read as it stood before the window in every segment, and written after the last one.

Shapes: B lanes, T characters, D width, H heads, K head width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import MeanMetric

from hrm_bench.charlm import Memories, State
from hrm_bench.layers.attention import merge_heads, split_heads
from hrm_bench.layers.compressive_memory import Memory, WriteRule, empty_memory, retrieve, write
from hrm_bench.models.hrm import HRM


class InfiniAttention(nn.Module):
    """Local attention and retrieval from the past, mixed by a gate a head: (B, T, D) → (B, T, D)."""

    def __init__(self, *, width: int, num_heads: int, causal: bool, rule: WriteRule) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_width = width // num_heads
        self.causal = causal
        self.rule: WriteRule = rule
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.gate = nn.Parameter(torch.zeros(num_heads))
        self.memory_share = MeanMetric()

    def forward(self, hidden: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        queries, keys, values = split_heads(self.qkv(hidden), 3 * self.num_heads).chunk(3, dim=1)  # (B, H, T, K)
        local = functional.scaled_dot_product_attention(queries, keys, values, is_causal=self.causal)
        share = self.gate.sigmoid()[:, None, None]  # of the memory in each head
        if not self.training:
            self.memory_share.update(share)
        mixed = share * retrieve(memory, queries) + (1 - share) * local  # eq. 6
        return self.output(merge_heads(mixed)), write(memory, keys, values, self.rule)


class InfiniHRM(HRM):
    """HRM on the output of an Infini-attention layer, whose memory goes from window to window."""

    uses_memory = True

    def build_memory(self, *, width: int, num_heads: int, causal: bool) -> None:
        self.infini_attention = InfiniAttention(
            width=width, num_heads=num_heads, causal=causal, rule=self.memory_policy.rule
        )

    def initial_memory(self, num_lanes: int) -> Memories:
        layer = self.infini_attention
        return (empty_memory(num_lanes, layer.num_heads, layer.head_width, like=layer.gate),)

    def segment(self, tokens: Tensor, state: State, memory: Memories) -> tuple[Tensor, State, Memories]:
        x, update = self.infini_attention(self.embedding(tokens), memory[0])
        state = self.reason(x, state, lambda level, inputs: self.levels[level](inputs))
        return self.head(state[-1]), state, (update,)
