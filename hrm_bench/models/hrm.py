"""The Hierarchical Reasoning Model (arXiv 2506.21734) as a causal character model.

One segment runs N·T steps over one window. Level i has a period p_i and is updated at every step that p_i divides:

    x = embedding(tokens)
    sequential:    z_L = L(z_L + z_H + x); at the end of its period, z_H = H(z_H + z_L) with the new z_L
    simultaneous:  z_i = M_i(z_i + x + Σ_{j≠i} z_j), every level from the states before the step
    logits = head(z_H)

Only the last ``gradient_depth`` steps carry gradient (1: the paper's one-step approximation, its section 2). With the
simultaneous order and depth 1, gradient reaches the highest level only. A learned initial state gets a gradient if a
step with gradient reads it. At depth 1 these are the states of levels that no earlier step of the first segment has
updated.

Shapes: B lanes, T characters, D width, V vocabulary.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hrm_bench.charlm import CharLM, Setting, State
from hrm_bench.errors import ConfigFault
from hrm_bench.layers.block import stack
from hrm_bench.layers.carried import Memory
from hrm_bench.layers.dropout import Embedding, Head
from hrm_bench.layers.hierarchy import Advance, HierarchyConfig, update_levels


class HRM(CharLM):
    """Levels of blocks that refine their states together."""

    @dataclass(frozen=True, kw_only=True)
    class Config(HierarchyConfig):
        """The hyperparameters of an HRM."""

        num_cycles: int  # N
        num_timesteps: int  # T, steps per cycle
        gradient_depth: int  # last steps of a segment that carry gradient, 1 to N·T

        @property
        def num_steps(self) -> int:
            """Steps of a segment."""
            return self.num_cycles * self.num_timesteps

        def __post_init__(self) -> None:
            super().__post_init__()
            steps = self.num_steps
            if self.gradient_depth > steps:
                raise ConfigFault(
                    "gradient_depth",
                    f"model.gradient_depth={self.gradient_depth}: a segment has num_cycles·num_timesteps = {steps} "
                    f"steps; try model.gradient_depth={steps}",
                )
            if any(steps % period for period in self.periods):
                raise ConfigFault(
                    "periods",
                    f"model.periods={list(self.periods)}: each must divide num_cycles·num_timesteps = {steps}, the "
                    f"steps of a segment; try model.num_timesteps={math.lcm(*self.periods)}",
                )

    def __init__(self, config: Config, setting: Setting) -> None:
        super().__init__(setting, num_segments=config.num_segments)
        self.config = config
        self.embedding = Embedding(setting.vocabulary_size, config.width)
        self.levels = nn.ModuleList(stack(config, window=setting.window) for _ in config.periods)
        self.initial_states = nn.ParameterList(torch.zeros(setting.window, config.width) for _ in config.periods)
        self.head = Head(config.width, setting.vocabulary_size)
        self.q_head = nn.Linear(config.width, 2, bias=False)  # halt or continue, as in the paper; no loss trains it
        self.initialise(width=config.width)

    def initial_state(self, num_lanes: int, length: int) -> State:
        return tuple(initial[:length].expand(num_lanes, -1, -1) for initial in self.initial_states)

    def segment(self, tokens: Tensor, state: State, memory: Memory, index: int) -> tuple[Tensor, State, Memory]:
        state = self.reason(self.embedding(tokens), state, lambda level, inputs: self.levels[level](inputs))
        return self.head(state[-1]), state, ()

    def reason(self, x: Tensor, state: State, advance: Advance) -> State:
        """Return the state after the N·T steps of one segment on the input x (B, T, D)."""
        config = self.config
        for step in range(1, config.num_steps + 1):
            with_gradient = torch.is_grad_enabled() and step > config.num_steps - config.gradient_depth
            with torch.set_grad_enabled(with_gradient):
                state = update_levels(step, config.periods, config.update, x, state, advance)
        return state
