"""A universal transformer (arXiv 1807.03819) without halting: one block in a loop, the control for depth alone.

A segment applies the same blocks N times, and all loops carry gradient:

    h = z + embedding(tokens), from z = 0
    N loops:    h = blocks(h + s_n)              (section 2.1: s_n is the signal of loop n, a vector)
    z = h;  logits = head(z)

As configured there is one block, as large as both levels of HRM together, and N = 6. So a window passes through as many
blocks as in HRM, which runs 3 in each of its 2 segments. There is no hierarchy, one loss and one segment. More segments
are refinement as in ``transformer_refined``: each reads z as values without gradient and has a loss of its own.

152,192 parameters at F = 640, against HRM's 152,064.

# differs from the paper: a decoder alone, with HRM's block: post-norm with RMSNorm, rotary positions in place of
# sinusoids that are added in each loop, and a gated feed-forward; no biases; dropout as the recipes use it.
# differs from the paper: s_n is learned. HRM's embeddings begin at 0.02, so a sinusoid of size 1 would hide them.
# differs from the paper: N is fixed; the paper also halts each position after a number of loops that the model chooses.

Shapes: B lanes, T characters, D width, F hidden width of the feed-forward, V vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hrm_bench.charlm import CharLM, Setting, State
from hrm_bench.layers.block import BlockConfig, stack
from hrm_bench.layers.carried import Memory
from hrm_bench.layers.dropout import Embedding, Head


class UniversalTransformer(CharLM):
    """The same blocks over and over; with ``num_segments`` above 1, over their own last output as well."""

    @dataclass(frozen=True, kw_only=True)
    class Config(BlockConfig):
        """The hyperparameters of a universal transformer."""

        num_loops: int  # N, times that the blocks are applied per segment
        num_segments: int  # refinement passes over a window

    def __init__(self, config: Config, setting: Setting) -> None:
        super().__init__(setting, num_segments=config.num_segments)
        self.embedding = Embedding(setting.vocabulary_size, config.width)
        self.blocks = stack(config, window=setting.window)
        self.loop_signals = nn.ParameterList(torch.zeros(config.width) for _ in range(config.num_loops))
        self.head = Head(config.width, setting.vocabulary_size)
        self.initialise(width=config.width)

    def initial_state(self, num_lanes: int, length: int) -> State:
        weight = self.embedding.weight
        return (weight.new_zeros(num_lanes, length, weight.shape[1]),)

    def segment(self, tokens: Tensor, state: State, memory: Memory, index: int) -> tuple[Tensor, State, Memory]:
        hidden = state[0] + self.embedding(tokens)  # (B, T, D)
        for signal in self.loop_signals:
            hidden = self.blocks(hidden + signal)
        return self.head(hidden), (hidden,), ()
