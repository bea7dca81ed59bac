"""Infini-HRM: one Infini-attention layer (arXiv 2404.07143) between the embedding and the HRM.

    A_local = causal attention of the window on itself, without positions or with rotary ones
    A_mem   = σ(Q)·M / (σ(Q)·z + ε)                                (eq. 3)
    A       = sigmoid(g) ⊙ A_mem + (1 − sigmoid(g)) ⊙ A_local      (eq. 6, one gate g per head)
    x       = A·W_o, which replaces the embedding as the HRM's input
    M      += σ(K)ᵀV,  z += Σ σ(K), or the delta rule             (eq. 4, 5)

The memory's config has alternatives (layers/compressive_memory.py): with ``bind: previous`` v_t is written under
k_{t−1}, with ``features: l2`` σ is signed and has no z, and with ``tie`` W_k = W_q. Local attention binds k_t to v_t in
all of them. As published, M is a bag of characters: their order in a window does not change it.

With ``local_positions: rotary`` queries and keys are turned by their positions after the memory is read and written
with them as they are. So local attention alone has positions, as the paper says of its position embeddings.

# differs from the paper: local attention has no positions, unless ``local_positions`` is ``rotary``.
# differs from the paper: no gradient goes through the write, unless ``memory.gradient`` is ``through``. There, training
# goes back through all segments of a text.
# differs from the paper: a window is read in several refinement segments. Each reads M as it stood before the window,
# and M is written after the last one, unless ``memory.write`` is ``every_segment``.
# differs from the paper: one such layer in the model, where each of the paper's layers is one. It reads the embedding
# itself, without a norm, and replaces it, without a residual sum. HRM's blocks, which follow, have no memory.
# differs from the paper: windows of 64 characters, where a segment of the paper has 2,048 tokens.
# differs from the paper: an answer is divided by σ(Q)·z + ε, not by σ(Q)·z. The gates g begin at 0; the paper names no
# value.
# differs from the paper: ``bind``, ``features`` and ``tie``, if they are not as by default.

Shapes: B lanes, T characters, D width, H heads, K head width.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor
from torch.nn import functional

from hrm_bench.charlm import Setting, State
from hrm_bench.layers.attention import merge_heads, rotary_angles, rotate
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

    def __init__(
        self, *, width: int, num_heads: int, causal: bool, how: Association, rotary_window: int | None = None
    ) -> None:
        """Make the layer; ``rotary_window``: the longest window, if local attention has rotary positions."""
        super().__init__(width=width, num_heads=num_heads, how=how, gate_shape=(num_heads,))
        self.causal = causal
        self.has_positions = rotary_window is not None
        if rotary_window is not None:
            self.cosines: Tensor
            self.sines: Tensor
            for name, angles in zip(("cosines", "sines"), rotary_angles(rotary_window, self.head_width), strict=True):
                self.register_buffer(name, angles, persistent=False)

    def forward(self, hidden: Tensor, memory: AssociativeMemory) -> tuple[Tensor, AssociativeMemory, Tensor]:
        queries, keys, values = self.project(hidden)
        local = functional.scaled_dot_product_attention(*self.placed(queries, keys), values, is_causal=self.causal)
        gate = self.gate.sigmoid()[:, None, None]
        mixed = gate * retrieve(memory, queries, self.how) + (1 - gate) * local  # eq. 6
        return self.output(merge_heads(mixed)), write(memory, keys, values, self.how), gate

    def placed(self, queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Return queries and keys (B, H, T, K) as local attention compares them."""
        if not self.has_positions:
            return queries, keys
        length = queries.shape[-2]
        cosines, sines = self.cosines[:length], self.sines[:length]
        return rotate(queries, cosines, sines), rotate(keys, cosines, sines)


class InfiniHRM(HRM):
    """HRM on the output of an Infini-attention layer, whose memory goes from window to window."""

    uses_memory = True

    @dataclass(frozen=True, kw_only=True)
    class Config(HRM.Config):
        """The hyperparameters of an Infini-HRM."""

        OFF: ClassVar[Mapping[str, Any]] = {"local_positions": "none"}

        local_positions: Literal["none", "rotary"] = "none"

    def __init__(self, config: Config, setting: Setting) -> None:
        super().__init__(config, setting)
        self.infini_attention = InfiniAttention(
            width=config.width,
            num_heads=config.num_heads,
            causal=config.causal,
            how=setting.memory,
            rotary_window=setting.window if config.local_positions == "rotary" else None,
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
