"""A transformer (arXiv 1706.03762) of HRM's own blocks, in one pass or refined: the control without a hierarchy.

A segment is one pass of all blocks, which carries gradient throughout:

    x = embedding(tokens)
    z = blocks(z + x), from z = 0
    logits = head(z)

With one segment this is a plain transformer. With more, each reads what the one before it made of the window, as values
without gradient, and has a loss of its own: HRM's deep supervision without its levels and its one-step gradient. z
starts from zero, not from a learned state as in HRM, so that both have the same parameters and the first segment is the
plain transformer's pass: what they differ in is the number of segments. (A learned z would also be a table of absolute
positions, which the rotary ones make unnecessary.)

152,192 parameters at F = 278, against HRM's 152,064: what HRM spends on initial states and a Q head is spent on F.

# differs from the paper: a decoder alone, with RMSNorm, rotary positions and a gated feed-forward as in HRM; no biases,
# no dropout, and a head that is not tied to the embedding.

Shapes: B lanes, T characters, D width, F hidden width of the feed-forward, V vocabulary.
"""

from torch import Tensor

from hrm_bench.charlm import CharLM, Memories, MemoryPolicy, State
from hrm_bench.layers.block import stack
from hrm_bench.layers.dropout import Embedding, Head
from hrm_bench.objectives import Objective


class Transformer(CharLM):
    """Post-norm blocks over the embedding; with ``num_segments`` above 1, over their own last output as well."""

    def __init__(
        self,
        *,
        vocabulary_size: int,
        window: int,
        width: int,
        num_heads: int,
        hidden_width: int,
        num_layers: int,
        num_segments: int,
        causal: bool,
        memory: MemoryPolicy,
        objective: Objective,
        seed: int,
    ) -> None:
        super().__init__(window=window, num_segments=num_segments, memory=memory, objective=objective, seed=seed)
        self.embedding = Embedding(vocabulary_size, width)
        self.blocks = stack(
            num_layers=num_layers,
            width=width,
            num_heads=num_heads,
            hidden_width=hidden_width,
            window=window,
            causal=causal,
        )
        self.head = Head(width, vocabulary_size)
        self.initialise(width=width)

    def initial_state(self, num_lanes: int, length: int) -> State:
        weight = self.embedding.weight
        return (weight.new_zeros(num_lanes, length, weight.shape[1]),)

    def segment(self, tokens: Tensor, state: State, memory: Memories) -> tuple[Tensor, State, Memories]:
        z = self.blocks(state[0] + self.embedding(tokens))  # (B, T, D)
        return self.head(z), (z,), ()
