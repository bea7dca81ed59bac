"""A model of your own: a GRU that reads a memory which each window writes by the delta rule."""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from hrm_bench.charlm import CharLM, Setting
from hrm_bench.layers.dropout import Embedding, Head


class Matrix(NamedTuple):
    """A memory is any NamedTuple of tensors whose first axis is the lane."""

    values: Tensor  # (B, D, D), from keys to values


class Delta(CharLM):
    """One gated recurrent layer over each window, and a matrix that goes from window to window."""

    uses_memory = True

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The keys of conf/model/delta.yaml."""

        width: int  # D, features per character

    def __init__(self, config: Config, setting: Setting) -> None:
        super().__init__(setting, num_segments=1)
        self.embedding = Embedding(setting.vocabulary_size, config.width)
        self.gru = nn.GRU(config.width, config.width, batch_first=True)
        self.key_value = nn.Linear(config.width, 2 * config.width, bias=False)
        self.head = Head(config.width, setting.vocabulary_size)
        self.initialise(width=config.width)

    def initial_memory(self, num_lanes: int) -> Matrix:
        """Return an empty memory per lane."""
        width = self.head.in_features
        return Matrix(self.head.weight.new_zeros(num_lanes, width, width))

    def segment(self, tokens: Tensor, state: tuple[()], memory: Matrix, index: int) -> tuple[Tensor, tuple[()], Matrix]:
        """Return the logits (B, T, V) of one window, and what it adds to the memory."""
        hidden, _ = self.gru(self.embedding(tokens))  # (B, T, D)
        keys, values = self.key_value(hidden).chunk(2, dim=-1)
        keys = keys.softmax(dim=-1)
        recalled = keys @ memory.values
        update = Matrix(keys.mT @ (values - recalled) / tokens.shape[1])  # what the memory does not know yet
        return self.head(hidden + recalled), state, update
