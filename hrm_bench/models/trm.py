"""The Tiny Recursive Model (arXiv 2510.04871) as a causal character model: HRM with one network instead of two.

The network improves a latent z, which reads the input, and then an answer y, which does not:

    x = embedding(tokens)
    a cycle:    z = net(x + y + z), ``num_latent_updates`` times; then y = net(y + z)
    a segment:  ``num_cycles`` cycles, all but the last without gradient
    logits = head(y)

The last cycle carries gradient through all of its updates. This is the paper's first difference from HRM, which has a
one-step approximation; one network for both levels is the second. With one cycle per segment, as configured, the first
segment trains the learned initial states. With more, no gradient reaches them.

The paper's schedule is 3 cycles of 6 updates. Here it is HRM's, 1 of 2, so that the two do not differ in it.
151,936 parameters with a network of two of HRM's blocks, against HRM's 152,064, which include a Q head.

# differs from the paper: the block is HRM's, causal and with weights in its norms; learned initial states, one vector
# per position, as in HRM (there: one fixed vector each); no halting and so no Q head; no moving average of the weights.

Shapes: B lanes, T characters, D width, V vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hrm_bench.charlm import CharLM, Setting, State
from hrm_bench.layers.block import BlockConfig, stack
from hrm_bench.layers.carried import Memory
from hrm_bench.layers.dropout import Embedding, Head


class TRM(CharLM):
    """One network that updates a latent and an answer in turn; the state is (y, z)."""

    @dataclass(frozen=True, kw_only=True)
    class Config(BlockConfig):
        """The hyperparameters of a TRM."""

        num_cycles: int  # cycles per segment
        num_latent_updates: int  # updates of z per cycle, before the one of y
        num_segments: int  # refinement passes over a window

    def __init__(self, config: Config, setting: Setting) -> None:
        super().__init__(setting, num_segments=config.num_segments)
        self.config = config
        self.embedding = Embedding(setting.vocabulary_size, config.width)
        self.net = stack(config, window=setting.window)
        self.initial_states = nn.ParameterList(torch.zeros(setting.window, config.width) for _ in ("y", "z"))
        self.head = Head(config.width, setting.vocabulary_size)
        self.initialise(width=config.width)

    def initial_state(self, num_lanes: int, length: int) -> State:
        return tuple(initial[:length].expand(num_lanes, -1, -1) for initial in self.initial_states)

    def read_by_head(self, state: State) -> Tensor:
        return state[0]

    def segment(self, tokens: Tensor, state: State, memory: Memory, index: int) -> tuple[Tensor, State, Memory]:
        x = self.embedding(tokens)
        y, z = state
        for cycle in range(1, self.config.num_cycles + 1):
            with torch.set_grad_enabled(torch.is_grad_enabled() and cycle == self.config.num_cycles):
                y, z = self.cycle(x, y, z)
        return self.head(y), (y, z), ()

    def cycle(self, x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the answer and the latent after one more cycle, each (B, T, D)."""
        for _ in range(self.config.num_latent_updates):
            z = self.net(x + y + z)
        return self.net(y + z), z
