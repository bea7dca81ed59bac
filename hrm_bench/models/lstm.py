"""A long short-term memory (doi 10.1162/neco.1997.9.8.1735, forget gate: doi 10.1162/089976600300015015), one layer.

One pass over the characters of a window, from h = c = 0:

    x = embedding(token)
    i, f, o = sigmoid(W·x + U·h + b), each with weights and biases of its own
    g       = tanh(W·x + U·h + b), likewise
    c = f ⊙ c + i ⊙ g
    h = o ⊙ tanh(c)
    logits = head(h)

h and c start at zero at each window and never go on to the next one, whatever the memory mode: a window is read by
itself, as by the other models without memory. It is read from left to right, so no mask is needed to be causal. There
is one segment, with one loss.

152,460 parameters at D = 126, against HRM's 152,064.

# differs from the rest of the bench: W·x and U·h have a bias each, as torch.nn.LSTM has them (8·D parameters); there
# are none elsewhere. Its weights and biases are torch's own draw, uniform within ±1/√D, from the generator that
# hrm_bench.build seeds; embedding and head are drawn as in every model.

Shapes: B lanes, T characters, D width, of the embedding too, V vocabulary.
"""

from torch import Tensor, nn

from hrm_bench.charlm import CharLM, Memories, MemoryPolicy, State
from hrm_bench.layers.dropout import Embedding, Head
from hrm_bench.objectives import Objective


class LSTM(CharLM):
    """One recurrent layer over each window by itself."""

    def __init__(
        self,
        *,
        vocabulary_size: int,
        window: int,
        width: int,
        memory: MemoryPolicy,
        objective: Objective,
        seed: int,
    ) -> None:
        super().__init__(window=window, num_segments=1, memory=memory, objective=objective, seed=seed)
        self.embedding = Embedding(vocabulary_size, width)
        self.recurrent = nn.LSTM(width, width, batch_first=True)
        self.head = Head(width, vocabulary_size)
        self.initialise(width=width)

    def initial_state(self, num_lanes: int, length: int) -> State:
        return ()

    def segment(self, tokens: Tensor, state: State, memory: Memories) -> tuple[Tensor, State, Memories]:
        hidden, _ = self.recurrent(self.embedding(tokens))  # (B, T, D), from zero
        return self.head(hidden), (), ()
