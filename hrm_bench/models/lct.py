"""LCT+OACD: Lagged Cache Training, one or two layers, with a task loss on the head only.

A window starts from random states and is refined over segments. Each segment reads the states that the segment before
has left, as values without gradient (the lagged cache):

    every segment:        L = block_L(x + L + H)
    every second segment: H = block_H(H + L)      (sequential: the new L; simultaneous: the L before)
    logits = head(concat(L, H))

With one layer there is no H. ``periods`` counts segments, since a segment is one step.

The reports do not say how these are chosen. We chose them once, on seed 42 and validation text:

- Random states: normal × 0.002, drawn for each lane of each batch. Evaluation starts from their mean, zero, so that a
  score depends neither on a draw nor on a batch size. At 0.02, the spread of the embeddings, the draw drowns the input.
- Learning rates: 1e-4 for the body, 3e-3 for the head. With 1e-3 the body moves faster than any head can follow, and
  perplexity rises again after ten epochs. With 1e-5 training stops before OACD has trained anything. With the chosen
  rates, the best epoch's head is within 3 % (nats, validation) of a head that is fitted to the same states until it has
  converged. A test measures this.

The head has no bias, and OACD moves the states' centroid to the origin. So no direction is left in which the head could
say how frequent each character is. This is why LCT+OACD can end above the perplexity of the unigram model. With a bias
(``head_bias``), a head fitted to the same states is below it. The same test measures this.

Shapes: B lanes, T characters, D width, V vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hrm_bench.charlm import CharLM, Setting, State
from hrm_bench.layers.block import stack
from hrm_bench.layers.carried import Memory
from hrm_bench.layers.dropout import Embedding, Head
from hrm_bench.layers.hierarchy import HierarchyConfig, update_levels


class LCT(CharLM):
    """Levels of blocks over a lagged cache of their states."""

    @dataclass(frozen=True, kw_only=True)
    class Config(HierarchyConfig):
        """The hyperparameters of an LCT; its periods count segments."""

        state_std: float  # standard deviation of the random states from which a window starts in training
        head_bias: bool

    def __init__(self, config: Config, setting: Setting) -> None:
        super().__init__(setting, num_segments=config.num_segments)
        self.config = config
        self.embedding = Embedding(setting.vocabulary_size, config.width)
        self.levels = nn.ModuleList(stack(config, window=setting.window) for _ in config.periods)
        self.head = Head(config.width * len(config.periods), setting.vocabulary_size, bias=config.head_bias)
        self.initialise(width=config.width)
        if config.head_bias:
            nn.init.zeros_(self.head.bias)

    def initial_state(self, num_lanes: int, length: int) -> State:
        like = self.embedding.weight
        shape = (num_lanes, length, self.config.width)
        return tuple(
            self.config.state_std * torch.randn(shape, dtype=like.dtype, device=like.device)
            if self.training
            else like.new_zeros(shape)
            for _ in self.config.periods
        )

    def read_by_head(self, state: State) -> Tensor:
        return torch.cat(state, dim=-1)

    def segment(self, tokens: Tensor, state: State, memory: Memory, index: int) -> tuple[Tensor, State, Memory]:
        state = update_levels(
            index + 1,
            self.config.periods,
            self.config.update,
            self.embedding(tokens),
            state,
            lambda level, inputs: self.levels[level](inputs),
        )
        return self.head(self.read_by_head(state)), state, ()
