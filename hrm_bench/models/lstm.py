"""A long short-term memory (doi 10.1162/neco.1997.9.8.1735, forget gate: doi 10.1162/089976600300015015), one layer.

One pass over the characters of a window:

    x = embedding(token)
    i, f, o = sigmoid(W·x + U·h + b), each with weights and biases of its own
    g       = tanh(W·x + U·h + b), likewise
    c = f ⊙ c + i ⊙ g
    h = o ⊙ tanh(c)
    logits = head(h)

h and c are its memory. With ``memory=carry`` each window starts from what the one before has left, and with ``reset``
from what the one before in its sample has left. With ``none``, and with ``reset`` and one window per sample, h and c
are zero at each window: it is a model without memory. Training is truncated backpropagation through time: the gradient
of a window's loss ends at the window's start, or goes further back with ``memory.gradient=through``.

A window is read from left to right, so no mask is needed to be causal. There is one segment with one loss.

152,460 parameters at D = 126, against HRM's 152,064.

# differs from the other models: W·x and U·h have a bias each, as in torch.nn.LSTM (8·D parameters); no other model has
# biases. Its weights and biases are drawn by PyTorch, uniform within ±1/√D, from the generator that hrm_bench.build
# seeds. Embedding and head are drawn as in every model.

Shapes: B lanes, T characters, D width, V vocabulary.
"""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from hrm_bench.charlm import CharLM, Setting, State
from hrm_bench.layers.carried import Memory
from hrm_bench.layers.dropout import Embedding, Head


class HC(NamedTuple):
    """The memory of an LSTM: the two parts of its state after a window."""

    h: Tensor  # (B, D)
    c: Tensor  # (B, D)


class LSTM(CharLM):
    """One recurrent layer over each window by itself, or from what the window before has left."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The hyperparameters of an LSTM."""

        width: int  # D, of the embedding and of h and c

    def __init__(self, config: Config, setting: Setting) -> None:
        super().__init__(setting, num_segments=1)
        self.uses_memory = self.reads_memory(setting.memory.mode, setting.windows_per_sample)
        self.embedding = Embedding(setting.vocabulary_size, config.width)
        self.recurrent = nn.LSTM(config.width, config.width, batch_first=True)
        self.head = Head(config.width, setting.vocabulary_size)
        self.initialise(width=config.width)

    @classmethod
    def reads_memory(cls, mode: str, windows_per_sample: int) -> bool:
        return mode == "carry" or (mode == "reset" and windows_per_sample > 1)

    def initial_memory(self, num_lanes: int) -> Memory:
        if not self.uses_memory:
            return ()
        zeros = self.head.weight.new_zeros(num_lanes, self.head.in_features)
        return HC(zeros, zeros)

    def segment(self, tokens: Tensor, state: State, memory: Memory, index: int) -> tuple[Tensor, State, Memory]:
        start = tuple(part[None].contiguous() for part in memory) or None  # None: from zero
        hidden, (h, c) = self.recurrent(self.embedding(tokens), start)  # (B, T, D)
        return self.head(hidden), (), HC(h[0], c[0]) if memory else ()

    def commit(self, memory: Memory, update: Memory) -> Memory:
        """Return the update, which replaces the memory, in the memory's precision."""
        return HC(*(new.to(old.dtype) for new, old in zip(update, memory, strict=True))) if memory else ()
