"""LCT+OACD: Lagged Cache Training, one or two layers, with a task loss on the head only.

A window starts from random states and is refined over segments; each reads the states that the segment before left, as
values without gradient (the lagged cache):

    every segment:        L = block_L(x + L + H)
    every second segment: H = block_H(H + L)      (sequential: the new L; simultaneous: the L before)
    logits = head(concat(L, H))

With one layer there is no H. ``periods`` counts in segments here, since a segment is one step.

Where the reports are silent, and what we chose, once, on seed 42 and validation text:

- random states: normal × 0.002, drawn for each lane of each batch; evaluation starts from their mean, zero, so that a
  score depends neither on a draw nor on a batch size. At 0.02, the embeddings' own spread, the draw drowns the input.
- rates: 1e-4 for the body, 3e-3 for the head. With 1e-3 the body moves faster than any head follows (perplexity rises
  again after ten epochs); with 1e-5 patience runs out before OACD has trained anything. Between them, the best epoch's
  head is within 3 % (nats, validation) of one that is fitted to its states until it has converged: a test says so.

The head has no bias, and OACD moves the states' centroid to the origin: no direction is left in which such a head could
say how frequent each character is, which is why LCT+OACD can end above the perplexity of unigram counts. With a bias
(``head_bias``), a head fitted to the same states gets under them: the same test says so.

Shapes: B lanes, T characters, D width, V vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hrm_bench.charlm import CharLM, Memories, MemoryPolicy, State
from hrm_bench.layers.block import stack
from hrm_bench.layers.dropout import Embedding, Head
from hrm_bench.layers.hierarchy import Update, update_levels
from hrm_bench.objectives import Objective


class LCT(CharLM):
    """Levels of blocks over a lagged cache of their states; ``periods`` has an entry a level, lowest first."""

    def __init__(
        self,
        *,
        vocabulary_size: int,
        window: int,
        width: int,
        num_heads: int,
        hidden_width: int,
        num_layers: int,
        periods: Sequence[int],
        num_segments: int,
        update: Update,
        state_std: float,
        head_bias: bool,
        causal: bool,
        memory: MemoryPolicy,
        objective: Objective,
        seed: int,
    ) -> None:
        super().__init__(window=window, num_segments=num_segments, memory=memory, objective=objective, seed=seed)
        self.periods = tuple(periods)
        self.update: Update = update
        self.state_std = state_std
        self.width = width
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
        self.head = Head(width * len(self.periods), vocabulary_size, bias=head_bias)
        self.initialise(width=width)
        if head_bias:
            nn.init.zeros_(self.head.bias)

    def initial_state(self, num_lanes: int, length: int) -> State:
        """A state a level, and a tensor as long as the number of segments done so far: lengths can be compiled for."""
        like = self.embedding.weight
        shape = (num_lanes, length, self.width)
        levels = tuple(
            self.state_std * torch.randn(shape, dtype=like.dtype, device=like.device)
            if self.training
            else like.new_zeros(shape)
            for _ in self.periods
        )
        return (*levels, like.new_zeros(0))

    def segment(self, tokens: Tensor, state: State, memory: Memories) -> tuple[Tensor, State, Memories]:
        *levels, done = state
        updated = update_levels(
            len(done) + 1,
            self.periods,
            self.update,
            self.embedding(tokens),
            tuple(levels),
            lambda level, inputs: self.levels[level](inputs),
        )
        return self.head(torch.cat(updated, dim=-1)), (*updated, done.new_zeros(len(done) + 1)), ()
