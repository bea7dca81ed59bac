"""The Tiny Recursive Model (arXiv 2510.04871) as a causal character model: HRM with one network instead of two.

The network improves a latent z, which reads the input, and then an answer y, which does not:

    x = embedding(tokens)
    a cycle:    z = net(x + y + z), ``num_latent_updates`` times; then y = net(y + z)
    a segment:  ``num_cycles`` cycles, all but the last without gradient
    logits = head(y)

The last cycle carries gradient through all of its updates: no one-step approximation, which is the paper's first point
against HRM; one network for both levels is its second. With one cycle a segment, as configured, the learned initial
states are trained by the first segment; with more, no gradient reaches them.

The paper's schedule is 3 cycles of 6 updates; here it is HRM's, 1 of 2, so that it is not what the two differ in.
151,936 parameters with a network of two of HRM's blocks, against HRM's 152,064, which has a Q head.

# differs from the paper: the block is HRM's, causal and with weights in its norms; learned initial states, a vector a
# position, as in HRM (there: one fixed vector each); no halting and so no Q head; no moving average of the weights.

Shapes: B lanes, T characters, D width, V vocabulary.
"""

import torch
from torch import Tensor, nn

from hrm_bench.charlm import CharLM, Memories, MemoryPolicy, State
from hrm_bench.layers.block import stack
from hrm_bench.layers.dropout import Embedding, Head
from hrm_bench.objectives import Objective


class TRM(CharLM):
    """One network that updates a latent and an answer in turn; the state is (y, z)."""

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
        num_latent_updates: int,
        num_segments: int,
        causal: bool,
        memory: MemoryPolicy,
        objective: Objective,
        seed: int,
    ) -> None:
        super().__init__(window=window, num_segments=num_segments, memory=memory, objective=objective, seed=seed)
        self.num_cycles = num_cycles
        self.num_latent_updates = num_latent_updates
        self.embedding = Embedding(vocabulary_size, width)
        self.net = stack(
            num_layers=num_layers,
            width=width,
            num_heads=num_heads,
            hidden_width=hidden_width,
            window=window,
            causal=causal,
        )
        self.initial_states = nn.ParameterList(torch.zeros(window, width) for _ in ("y", "z"))
        self.head = Head(width, vocabulary_size)
        self.initialise(width=width)

    def initial_state(self, num_lanes: int, length: int) -> State:
        return tuple(initial[:length].expand(num_lanes, -1, -1) for initial in self.initial_states)

    def segment(self, tokens: Tensor, state: State, memory: Memories) -> tuple[Tensor, State, Memories]:
        x = self.embedding(tokens)
        y, z = state
        for cycle in range(1, self.num_cycles + 1):
            with torch.set_grad_enabled(torch.is_grad_enabled() and cycle == self.num_cycles):
                y, z = self.cycle(x, y, z)
        return self.head(y), (y, z), ()

    def cycle(self, x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """The answer and the latent after one more cycle, each (B, T, D)."""
        for _ in range(self.num_latent_updates):
            z = self.net(x + y + z)
        return self.net(y + z), z
