"""A long short-term memory (doi 10.1162/neco.1997.9.8.1735, forget gate: doi 10.1162/089976600300015015), one layer.

One pass over the characters of a window, from h = c = 0:

    x = embedding(token)
    i, f, o = sigmoid(W·x + U·h + b), each with weights and biases of its own
    g       = tanh(W·x + U·h + b), likewise
    c = f ⊙ c + i ⊙ g
    h = o ⊙ tanh(c)
    logits = head(h)

h and c start at zero at each window and never go on to the next one, in any memory mode: each window is read by itself,
as in the other models without memory. A window is read from left to right, so no mask is needed to be causal. There is
one segment with one loss.

152,460 parameters at D = 126, against HRM's 152,064.

# differs from the other models: W·x and U·h have a bias each, as in torch.nn.LSTM (8·D parameters); no other model has
# biases. Its weights and biases are drawn by PyTorch, uniform within ±1/√D, from the generator that hrm_bench.build
# seeds. Embedding and head are drawn as in every model.

Shapes: B lanes, T characters, D width, V vocabulary.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from hrm_bench.charlm import CharLM, Setting, State
from hrm_bench.layers.carried import Memory
from hrm_bench.layers.dropout import Embedding, Head


class LSTM(CharLM):
    """One recurrent layer over each window by itself."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The hyperparameters of an LSTM."""

        width: int  # D, of the embedding and of h and c

    def __init__(self, config: Config, setting: Setting) -> None:
        super().__init__(setting, num_segments=1)
        self.embedding = Embedding(setting.vocabulary_size, config.width)
        self.recurrent = nn.LSTM(config.width, config.width, batch_first=True)
        self.head = Head(config.width, setting.vocabulary_size)
        self.initialise(width=config.width)

    def segment(self, tokens: Tensor, state: State, memory: Memory, index: int) -> tuple[Tensor, State, Memory]:
        hidden, _ = self.recurrent(self.embedding(tokens))  # (B, T, D), from zero
        return self.head(hidden), (), ()
