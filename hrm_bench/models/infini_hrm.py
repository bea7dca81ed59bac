"""Infini-HRM: one Infini-attention layer (arXiv 2404.07143) between the embedding and the HRM.

    A_local = causal attention of the window on itself, without positions
    A_mem   = σ(Q)·M / (σ(Q)·z + ε)                                (eq. 3)
    A       = sigmoid(g) ⊙ A_mem + (1 − sigmoid(g)) ⊙ A_local      (eq. 6, one gate g per head)
    x       = A·W_o, which replaces the embedding as the HRM's input
    M      += σ(K)ᵀV,  z += Σ σ(K), or the delta rule             (eq. 4, 5)

# differs from the paper: every segment reads M as it stood before the window; M is written after the last segment.

Shapes: B lanes, T characters, D width, H heads, K head width.
"""

from torch import Tensor
from torch.nn import functional

from hrm_bench.charlm import Setting, State
from hrm_bench.layers.attention import merge_heads
from hrm_bench.layers.carried import Memory
from hrm_bench.layers.compressive_memory import (
    CompressiveMemory,
    MemoryLayer,
    WriteRule,
    empty_memory,
    mean_norm,
    retrieve,
    write,
)
from hrm_bench.models.hrm import HRM


class InfiniAttention(MemoryLayer):
    """Local attention and retrieval from the past, mixed by one gate per head.

    (B, T, D) → (B, T, D), the update of the memory, and what the gates let through (H, 1, 1).
    """

    def __init__(self, *, width: int, num_heads: int, causal: bool, rule: WriteRule) -> None:
        super().__init__(width=width, num_heads=num_heads, rule=rule, gate_shape=(num_heads,))
        self.causal = causal

    def forward(self, hidden: Tensor, memory: CompressiveMemory) -> tuple[Tensor, CompressiveMemory, Tensor]:
        queries, keys, values = self.project(hidden)
        local = functional.scaled_dot_product_attention(queries, keys, values, is_causal=self.causal)
        gate = self.gate.sigmoid()[:, None, None]
        mixed = gate * retrieve(memory, queries) + (1 - gate) * local  # eq. 6
        return self.output(merge_heads(mixed)), write(memory, keys, values, self.rule), gate


class InfiniHRM(HRM):
    """HRM on the output of an Infini-attention layer, whose memory goes from window to window."""

    uses_memory = True

    def __init__(self, config: HRM.Config, setting: Setting) -> None:
        super().__init__(config, setting)
        self.infini_attention = InfiniAttention(
            width=config.width, num_heads=config.num_heads, causal=config.causal, rule=setting.memory.rule
        )
        self.initialise(width=config.width)

    def initial_memory(self, num_lanes: int) -> Memory:
        layer = self.infini_attention
        return (empty_memory(num_lanes, layer.num_heads, layer.head_width, like=layer.gate),)

    def memory_norm(self, memory: Memory) -> Tensor:
        return mean_norm(memory)

    def segment(self, tokens: Tensor, state: State, memory: Memory, index: int) -> tuple[Tensor, State, Memory]:
        x, update, gate = self.infini_attention(self.embedding(tokens), memory[0])
        self.gate_means.observe("infini_attention", gate)
        state = self.reason(x, state, lambda level, inputs: self.levels[level](inputs))
        return self.head(state[-1]), state, (update,)
