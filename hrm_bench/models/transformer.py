"""A transformer (arXiv 1706.03762) of HRM's own blocks, in one pass or refined: the control without a hierarchy.

A segment is one pass of all blocks, which carries gradient throughout:

    x = embedding(tokens)
    z = blocks(z + x), from z = 0
    logits = head(z)

With one segment this is a plain transformer. With more, each segment reads what the one before has made of the window,
as values without gradient, and has a loss of its own: HRM's deep supervision without its levels and its one-step
gradient. z starts from zero, not from a learned state as in HRM. So the plain and the refined transformer have the same
parameters, and they differ in the number of segments only. (A learned z would also be a table of absolute positions,
which the rotary ones make unnecessary.)

152,192 parameters at F = 278, against HRM's 152,064: F takes what HRM spends on initial states and a Q head.

# differs from the paper: a decoder alone, with RMSNorm, rotary positions and a gated feed-forward as in HRM; no biases,
# no dropout, and a head that is not tied to the embedding.

Shapes: B lanes, T characters, D width, F hidden width of the feed-forward, V vocabulary.
"""

from dataclasses import dataclass

from torch import Tensor

from hrm_bench.charlm import CharLM, Setting, State
from hrm_bench.layers.block import BlockConfig, stack
from hrm_bench.layers.carried import Memory
from hrm_bench.layers.dropout import Embedding, Head


class Transformer(CharLM):
    """Post-norm blocks over the embedding; with ``num_segments`` above 1, over their own last output as well."""

    @dataclass(frozen=True, kw_only=True)
    class Config(BlockConfig):
        """The hyperparameters of a transformer."""

        num_segments: int  # passes over a window

    def __init__(self, config: Config, setting: Setting) -> None:
        super().__init__(setting, num_segments=config.num_segments)
        self.embedding = Embedding(setting.vocabulary_size, config.width)
        self.blocks = stack(config, window=setting.window)
        self.head = Head(config.width, setting.vocabulary_size)
        self.initialise(width=config.width)

    def initial_state(self, num_lanes: int, length: int) -> State:
        weight = self.embedding.weight
        return (weight.new_zeros(num_lanes, length, weight.shape[1]),)

    def segment(self, tokens: Tensor, state: State, memory: Memory, index: int) -> tuple[Tensor, State, Memory]:
        z = self.blocks(state[0] + self.embedding(tokens))  # (B, T, D)
        return self.head(z), (z,), ()
