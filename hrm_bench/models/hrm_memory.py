"""HRM+Memory: a compressive memory on the hidden state of each module, the reports' failed approach.

The reports say only "compressive memory in each HRM layer" and give the parameters; this is our reading of it. With h
the output of a module's blocks and M, z its memory (arXiv 2404.07143, eq. 3 to 5):

    Q, K, V = h·W_q, h·W_k, h·W_v;  A_mem = σ(Q)·M / (σ(Q)·z + ε)
    gate    = sigmoid(h·W_g)                          (64 → 64, 0.5 at first)
    output  = gate ⊙ (A_mem·W_o) + (1 − gate) ⊙ h
    M      += σ(K)ᵀV,  z += Σ σ(K), from the segment's last update of the module

The memory is read without gradient into it and written without gradient through it, so no loss reaches W_k and W_v:
they stay the random projections that they were drawn as.

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


class HiddenStateMemory(nn.Module):
    """Mixes a hidden state with what a memory answers to it: (B, T, D) → (B, T, D), and what to write."""

    def __init__(self, *, width: int, num_heads: int, rule: WriteRule) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.rule: WriteRule = rule
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.gate = nn.Parameter(torch.zeros(width, width))
        self.memory_share = MeanMetric()

    def forward(self, hidden: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        queries, keys, values = split_heads(self.qkv(hidden), 3 * self.num_heads).chunk(3, dim=1)  # (B, H, T, K)
        retrieved = self.output(merge_heads(retrieve(memory, queries)))
        gate = functional.linear(hidden, self.gate).sigmoid()
        if not self.training:
            self.memory_share.update(gate)
        return gate * retrieved + (1 - gate) * hidden, write(memory, keys, values, self.rule)


class HRMMemory(HRM):
    """HRM whose modules each read and write a memory of their own; a level's memory has the level's place."""

    uses_memory = True

    def build_memory(self, *, width: int, num_heads: int, causal: bool) -> None:
        self.num_heads, self.head_width = num_heads, width // num_heads
        self.memories = nn.ModuleList(
            HiddenStateMemory(width=width, num_heads=num_heads, rule=self.memory_policy.rule) for _ in self.periods
        )

    def initial_memory(self, num_lanes: int) -> Memories:
        shape = (num_lanes, self.num_heads, self.head_width)
        return tuple(empty_memory(*shape, like=self.head.weight) for _ in self.periods)

    def segment(self, tokens: Tensor, state: State, memory: Memories) -> tuple[Tensor, State, Memories]:
        updates = list(memory)  # every level is updated at least once a segment, and replaces its own

        def advance(level: int, inputs: Tensor) -> Tensor:
            hidden, updates[level] = self.memories[level](self.levels[level](inputs), memory[level])
            return hidden

        state = self.reason(self.embedding(tokens), state, advance)
        return self.head(state[-1]), state, tuple(updates)
