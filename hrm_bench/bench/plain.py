"""The models again, written plainly: what the speed of the bench's own is measured against.

Each is an ordinary module of the layers in ``plain_layers``, with the parameters of its counterpart under the same
names (``plain_training.unfused`` tells where one there is several here). Nothing of the package's own layers, models
and objectives is used, so that the two differ in speed and in nothing else. A model is described by its config group.

Shapes: B lanes, T characters, D width, V vocabulary.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hrm_bench.bench.plain_layers import LSTM, Block, HiddenStateMemory, InfiniAttention, PlainMemory
from hrm_bench.data.vocabulary import CHARACTERS

State = tuple[Tensor, ...]  # each (B, T, D)
Memories = tuple[PlainMemory, ...]


def total(states: Sequence[Tensor]) -> Tensor:
    """The sum of some states."""
    found = states[0]
    for state in states[1:]:
        found = found + state
    return found


class PlainModel(nn.Module):
    """What all of them share: embedding, head, and the loop over the segments of a window."""

    num_memories = 0

    def __init__(self, model: Mapping[str, Any], *, window: int, rule: str) -> None:
        super().__init__()
        self.model = model
        self.window = window
        self.rule = rule  # by which memories are written
        self.width: int = model["width"]
        self.num_segments: int = model.get("num_segments", 1)
        self.embedding = nn.Embedding(len(CHARACTERS), self.width)
        self.head = nn.Linear(self.width, len(CHARACTERS), bias=False)
        self.build()

    def build(self) -> None:
        """The parts of the architecture."""
        raise NotImplementedError

    def stack(self) -> nn.Sequential:
        sizes = (self.width, self.model["num_heads"], self.model["hidden_width"], self.window, self.model["causal"])
        return nn.Sequential(*(Block(*sizes) for _ in range(self.model["num_layers"])))

    def learned_states(self, number: int) -> nn.ParameterList:
        return nn.ParameterList(torch.zeros(self.window, self.width) for _ in range(number))

    def initial_state(self, num_lanes: int, length: int) -> State:
        """Learned, where the architecture has such."""
        return tuple(initial[:length].expand(num_lanes, -1, -1) for initial in getattr(self, "initial_states", ()))

    def initial_memory(self, num_lanes: int) -> Memories:
        """Empty."""
        if not self.num_memories:
            return ()
        heads, weight = self.model["num_heads"], self.head.weight
        keys = self.width // heads
        return tuple(
            (weight.new_zeros(num_lanes, heads, keys, keys), weight.new_zeros(num_lanes, heads, keys))
            for _ in range(self.num_memories)
        )

    def segment(self, tokens: Tensor, state: State, memory: Memories) -> tuple[Tensor, State, Memories]:
        """Logits (B, T, V), the new state, and what to add to the memory."""
        raise NotImplementedError

    def forward(self, tokens: Tensor) -> Tensor:
        """The logits of one window's last segment, after an empty memory."""
        state, memory = self.initial_state(*tokens.shape), self.initial_memory(len(tokens))
        for _ in range(self.num_segments):
            logits, state, _ = self.segment(tokens, state, memory)
        return logits


class PlainHRM(PlainModel):
    """Levels of blocks, each updated when its period ends; gradient through the last steps alone."""

    def build(self) -> None:
        self.levels = nn.ModuleList(self.stack() for _ in self.model["periods"])
        self.initial_states = self.learned_states(len(self.levels))
        self.q_head = nn.Linear(self.width, 2, bias=False)

    def segment(self, tokens: Tensor, state: State, memory: Memories) -> tuple[Tensor, State, Memories]:
        update = list(memory)
        state = self.reason(self.embedding(tokens), state, memory, update)
        return self.head(state[-1]), state, tuple(update)

    def reason(self, x: Tensor, state: State, memory: Memories, update: list[PlainMemory]) -> State:
        num_steps = self.model["num_cycles"] * self.model["num_timesteps"]
        sequential = self.model["update"] == "sequential"
        with_gradient = torch.is_grad_enabled()
        for step in range(1, num_steps + 1):
            with torch.set_grad_enabled(with_gradient and step > num_steps - self.model["gradient_depth"]):
                now = list(state)
                for level, period in enumerate(self.model["periods"]):
                    if step % period == 0:
                        inputs = total(now if sequential else state)
                        if level == 0 or not sequential:
                            inputs = inputs + x
                        now[level] = self.advance(level, inputs, memory, update)
                state = tuple(now)
        return state

    def advance(self, level: int, inputs: Tensor, memory: Memories, update: list[PlainMemory]) -> Tensor:
        return self.levels[level](inputs)


class PlainHRMMemory(PlainHRM):
    """A memory on the hidden state of each level."""

    def build(self) -> None:
        super().build()
        self.num_memories = len(self.levels)
        self.memories = nn.ModuleList(
            HiddenStateMemory(self.width, self.model["num_heads"], self.rule) for _ in self.levels
        )

    def advance(self, level: int, inputs: Tensor, memory: Memories, update: list[PlainMemory]) -> Tensor:
        hidden, update[level] = self.memories[level](self.levels[level](inputs), memory[level])
        return hidden


class PlainInfiniHRM(PlainHRM):
    """An Infini-attention layer between the embedding and the HRM."""

    num_memories = 1

    def build(self) -> None:
        super().build()
        sizes = (self.width, self.model["num_heads"], self.window, self.model["causal"])
        self.infini_attention = InfiniAttention(*sizes, self.rule)

    def segment(self, tokens: Tensor, state: State, memory: Memories) -> tuple[Tensor, State, Memories]:
        x, update = self.infini_attention(self.embedding(tokens), memory[0])
        state = self.reason(x, state, memory, [])
        return self.head(state[-1]), state, (update,)


class PlainLCT(PlainModel):
    """Levels over a lagged cache, a step a segment."""

    def build(self) -> None:
        self.levels = nn.ModuleList(self.stack() for _ in self.model["periods"])
        self.head = nn.Linear(self.width * len(self.levels), len(CHARACTERS), bias=self.model["head_bias"])
        self.num_done = 0  # segments of this window

    def initial_state(self, num_lanes: int, length: int) -> State:
        self.num_done = 0
        shape, like = (num_lanes, length, self.width), self.embedding.weight
        if not self.training:
            return tuple(like.new_zeros(shape) for _ in self.levels)
        std = self.model["state_std"]
        return tuple(std * torch.randn(shape, dtype=like.dtype, device=like.device) for _ in self.levels)

    def segment(self, tokens: Tensor, state: State, memory: Memories) -> tuple[Tensor, State, Memories]:
        self.num_done += 1
        x, now = self.embedding(tokens), list(state)
        sequential = self.model["update"] == "sequential"
        for level, period in enumerate(self.model["periods"]):
            if self.num_done % period == 0:
                inputs = total(now if sequential else state)
                now[level] = self.levels[level](inputs + x if level == 0 or not sequential else inputs)
        return self.head(torch.cat(now, dim=-1)), tuple(now), ()


class PlainLSTM(PlainModel):
    """A long short-term memory over each window."""

    def build(self) -> None:
        self.recurrent = LSTM(self.width)

    def segment(self, tokens: Tensor, state: State, memory: Memories) -> tuple[Tensor, State, Memories]:
        return self.head(self.recurrent(self.embedding(tokens))), (), ()


class PlainTransformer(PlainModel):
    """Blocks over the embedding and their own last output, which is zero at first."""

    def build(self) -> None:
        self.blocks = self.stack()

    def initial_state(self, num_lanes: int, length: int) -> State:
        return (self.embedding.weight.new_zeros(num_lanes, length, self.width),)

    def segment(self, tokens: Tensor, state: State, memory: Memories) -> tuple[Tensor, State, Memories]:
        z = self.blocks(state[0] + self.embedding(tokens))
        return self.head(z), (z,), ()


class PlainTRM(PlainModel):
    """One network for a latent and an answer; only the last cycle carries gradient."""

    def build(self) -> None:
        self.net = self.stack()
        self.initial_states = self.learned_states(2)

    def segment(self, tokens: Tensor, state: State, memory: Memories) -> tuple[Tensor, State, Memories]:
        x = self.embedding(tokens)
        y, z = state
        with_gradient = torch.is_grad_enabled()
        for cycle in range(1, self.model["num_cycles"] + 1):
            with torch.set_grad_enabled(with_gradient and cycle == self.model["num_cycles"]):
                for _ in range(self.model["num_latent_updates"]):
                    z = self.net(x + y + z)
                y = self.net(y + z)
        return self.head(y), (y, z), ()


PLAIN: dict[str, type[PlainModel]] = {  # by the class that each is the counterpart of
    "hrm_bench.models.hrm.HRM": PlainHRM,
    "hrm_bench.models.hrm_memory.HRMMemory": PlainHRMMemory,
    "hrm_bench.models.infini_hrm.InfiniHRM": PlainInfiniHRM,
    "hrm_bench.models.lct.LCT": PlainLCT,
    "hrm_bench.models.lstm.LSTM": PlainLSTM,
    "hrm_bench.models.transformer.Transformer": PlainTransformer,
    "hrm_bench.models.trm.TRM": PlainTRM,
}
