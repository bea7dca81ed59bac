"""The Hierarchical Reasoning Model (arXiv 2506.21734) as a causal character model.

One segment runs N·T steps over one window. Level i has a period p_i and is updated at every step that p_i divides:

    x = embedding(tokens)
    sequential:    z_L = L(z_L + z_H + x), then, where its period ends, z_H = H(z_H + z_L) with the new z_L
    simultaneous:  z_i = M_i(z_i + x + Σ_{j≠i} z_j), every level from the states before the step
    logits = head(z_H)

Only the last ``gradient_depth`` steps carry gradient (1: the paper's one-step approximation, its section 2). Under the
simultaneous order and depth 1 no gradient reaches any level but the highest. Learned initial states get a gradient
where that step reads them: at depth 1, those of the levels that no earlier step of the first segment has updated.

Shapes: B lanes, T characters, D width, V vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hrm_bench.charlm import CharLM, Memories, MemoryPolicy, State
from hrm_bench.layers.block import stack
from hrm_bench.layers.dropout import Embedding, Head
from hrm_bench.layers.hierarchy import Advance, Update, update_levels
from hrm_bench.objectives import Objective


class HRM(CharLM):
    """Levels of blocks that refine their states together; ``periods`` has an entry a level, lowest first."""

    def __init__(
        self,
        *,
        vocabulary_size: int,
        window: int,
        width: int,
        num_heads: int,
        hidden_width: int,
        num_layers: int,
        num_cycles: int,
        num_timesteps: int,
        periods: Sequence[int],
        num_segments: int,
        update: Update,
        gradient_depth: int,
        causal: bool,
        memory: MemoryPolicy,
        objective: Objective,
        seed: int,
    ) -> None:
        super().__init__(window=window, num_segments=num_segments, memory=memory, objective=objective, seed=seed)
        self.periods = tuple(periods)
        self.num_steps = num_cycles * num_timesteps
        self.update = update
        self.gradient_depth = gradient_depth
        self.embedding = Embedding(vocabulary_size, width)
        self.levels = nn.ModuleList(
            stack(
                num_layers=num_layers,
                width=width,
                num_heads=num_heads,
                hidden_width=hidden_width,
                window=window,
                causal=causal,
            )
            for _ in self.periods
        )
        self.initial_states = nn.ParameterList(torch.zeros(window, width) for _ in self.periods)
        self.head = Head(width, vocabulary_size)
        self.q_head = nn.Linear(width, 2, bias=False)  # halt or go on, as in the paper; no loss of ours uses it
        self.build_memory(width=width, num_heads=num_heads, causal=causal)
        self.initialise(width=width)

    def build_memory(self, *, width: int, num_heads: int, causal: bool) -> None:
        """Where the architectures with a memory add its parts; the HRM itself has none."""

    def initial_state(self, num_lanes: int, length: int) -> State:
        return tuple(initial[:length].expand(num_lanes, -1, -1) for initial in self.initial_states)

    def segment(self, tokens: Tensor, state: State, memory: Memories) -> tuple[Tensor, State, Memories]:
        state = self.reason(self.embedding(tokens), state, lambda level, inputs: self.levels[level](inputs))
        return self.head(state[-1]), state, ()

    def reason(self, x: Tensor, state: State, advance: Advance) -> State:
        """The N·T steps of one segment on the input x (B, T, D)."""
        for step in range(1, self.num_steps + 1):
            with_gradient = torch.is_grad_enabled() and step > self.num_steps - self.gradient_depth
            with torch.set_grad_enabled(with_gradient):
                state = update_levels(step, self.periods, self.update, x, state, advance)
        return state
