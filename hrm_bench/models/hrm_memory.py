"""HRM+Memory: a compressive memory on the hidden state of each module, the reports' failed approach.

The reports say only "compressive memory in each HRM layer" and give the parameters; this is our reading of it. With h
the output of a module's blocks and M, z its memory (arXiv 2404.07143, eq. 3 to 5):

    Q, K, V = h·W_q, h·W_k, h·W_v;  A_mem = σ(Q)·M / (σ(Q)·z + ε)
    gate    = sigmoid(h·W_g)                          (64 → 64, 0.5 at first)
    output  = gate ⊙ (A_mem·W_o) + (1 − gate) ⊙ h
    M      += σ(K)ᵀV,  z += Σ σ(K), from the segment's last update of the module

As published, the memory is written without gradient through it. So no loss reaches W_k and W_v: they stay the random
projections that they were drawn as. The memory's config has alternatives (layers/compressive_memory.py): with ``bind:
previous`` the value of h_t is written under the key of h_{t−1}, with ``features: l2`` σ is signed and has no z, with
``tie`` W_k = W_q, which is trained, and with ``gradient: through`` a loss reaches what earlier windows wrote.

Shapes: B lanes, T characters, D width, H heads, K head width.
"""

from torch import Tensor, nn
from torch.nn import functional

from hrm_bench.charlm import Setting, State
from hrm_bench.layers.attention import merge_heads
from hrm_bench.layers.carried import Memory
from hrm_bench.layers.compressive_memory import (
    Association,
    AssociativeMemory,
    MemoryLayer,
    empty_memory,
    mean_norm,
    retrieve,
    write,
)
from hrm_bench.models.hrm import HRM


class HiddenStateMemory(MemoryLayer):
    """A mixture of a hidden state with what a memory answers to it.

    (B, T, D) → (B, T, D), the update of the memory, and what the gate lets through (B, T, D).
    """

    def __init__(self, *, width: int, num_heads: int, how: Association) -> None:
        super().__init__(width=width, num_heads=num_heads, how=how, gate_shape=(width, width))

    def forward(self, hidden: Tensor, memory: AssociativeMemory) -> tuple[Tensor, AssociativeMemory, Tensor]:
        queries, keys, values = self.project(hidden)
        retrieved = self.output(merge_heads(retrieve(memory, queries, self.how)))
        gate = functional.linear(hidden, self.gate).sigmoid()
        return gate * retrieved + (1 - gate) * hidden, write(memory, keys, values, self.how), gate


class HRMMemory(HRM):
    """HRM whose modules each read and write a memory of their own; memories are in the order of the levels."""

    uses_memory = True

    def __init__(self, config: HRM.Config, setting: Setting) -> None:
        super().__init__(config, setting)
        self.memories = nn.ModuleList(
            HiddenStateMemory(width=config.width, num_heads=config.num_heads, how=setting.memory)
            for _ in config.periods
        )
        self.initialise(width=config.width)

    def initial_memory(self, num_lanes: int) -> Memory:
        heads = self.config.num_heads
        sizes = (num_lanes, heads, self.config.width // heads)
        return tuple(empty_memory(*sizes, like=self.head.weight, how=self.memory_policy) for _ in self.config.periods)

    def memory_norm(self, memory: Memory) -> Tensor:
        return mean_norm(memory)

    def segment(self, tokens: Tensor, state: State, memory: Memory, index: int) -> tuple[Tensor, State, Memory]:
        updates = list(memory)  # each is replaced, for every level is updated at least once per segment

        def advance(level: int, inputs: Tensor) -> Tensor:
            hidden, updates[level], gate = self.memories[level](self.levels[level](inputs), memory[level])
            self.gate_means.observe(f"memories.{level}", gate)
            return hidden

        state = self.reason(self.embedding(tokens), state, advance)
        return self.head(state[-1]), state, tuple(updates)
