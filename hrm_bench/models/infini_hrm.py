"""Infini-HRM: one Infini-attention layer (arXiv 2404.07143) between the embedding and the HRM.

    A_local = causal attention of the window on itself, without positions
    A_mem   = σ(Q)·M / (σ(Q)·z + ε)                                (eq. 3)
    A       = sigmoid(g) ⊙ A_mem + (1 − sigmoid(g)) ⊙ A_local      (eq. 6, one gate g per head)
    x       = A·W_o, which replaces the embedding as the HRM's input
    M      += σ(K)ᵀV,  z += Σ σ(K), or the delta rule             (eq. 4, 5)

The memory's config has alternatives (layers/compressive_memory.py): with ``bind: previous`` v_t is written under
k_{t−1}, with ``features: l2`` σ is signed and has no z, and with ``tie`` W_k = W_q. Local attention binds k_t to v_t in
all of them. As published, M is a bag of characters: their order in a window does not change it.

# differs from the paper: every segment reads M as it stood before the window; M is written after the last segment.
# differs from the paper: no gradient goes through the write, unless ``memory.gradient`` is ``through``.
# differs from the paper: local attention has no positions; the layer is one, reads the embedding itself and replaces
# it, without a residual sum or a norm.

Shapes: B lanes, T characters, D width, H heads, K head width.
"""

from torch import Tensor
from torch.nn import functional

from hrm_bench.charlm import Setting, State
from hrm_bench.layers.attention import merge_heads
from hrm_bench.layers.carried import Memory
from hrm_bench.layers.compressive_memory import (
    Association,
    AssociativeMemory,
    MemoryLayer,
    mean_norm,
    retrieve,
    write,
)
from hrm_bench.models.hrm import HRM


class InfiniAttention(MemoryLayer):
    """Local attention and retrieval from the past, mixed by one gate per head.

    (B, T, D) → (B, T, D), the update of the memory, and what the gates let through (H, 1, 1).
    """

    def __init__(self, *, width: int, num_heads: int, causal: bool, how: Association) -> None:
        super().__init__(width=width, num_heads=num_heads, how=how, gate_shape=(num_heads,))
        self.causal = causal

    def forward(self, hidden: Tensor, memory: AssociativeMemory) -> tuple[Tensor, AssociativeMemory, Tensor]:
        queries, keys, values = self.project(hidden)
        local = functional.scaled_dot_product_attention(queries, keys, values, is_causal=self.causal)
        gate = self.gate.sigmoid()[:, None, None]
        mixed = gate * retrieve(memory, queries, self.how) + (1 - gate) * local  # eq. 6
        return self.output(merge_heads(mixed)), write(memory, keys, values, self.how), gate


class InfiniHRM(HRM):
    """HRM on the output of an Infini-attention layer, whose memory goes from window to window."""

    uses_memory = True

    def __init__(self, config: HRM.Config, setting: Setting) -> None:
        super().__init__(config, setting)
        self.infini_attention = InfiniAttention(
            width=config.width, num_heads=config.num_heads, causal=config.causal, how=setting.memory
        )
        self.initialise(width=config.width)

    def initial_memory(self, num_lanes: int) -> Memory:
        return (self.infini_attention.empty(num_lanes),)

    def memory_norm(self, memory: Memory) -> Tensor:
        return mean_norm(memory)

    def segment(self, tokens: Tensor, state: State, memory: Memory, index: int) -> tuple[Tensor, State, Memory]:
        x, update, gate = self.infini_attention(self.embedding(tokens), memory[0])
        self.gate_means.observe("infini_attention", gate)
        state = self.reason(x, state, lambda level, inputs: self.levels[level](inputs))
        return self.head(state[-1]), state, (update,)
