"""Models as functions of their parameters: what each segment of one window computes.

Shapes: B lanes, T characters, D width, V vocabulary.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding

from . import layers
from .layers import MatrixMemory, Parameters, StateMemory

State = tuple[Tensor, ...]  # (B, T, D) each
Memories = Sequence[Any]  # MatrixMemory or StateMemory


class Model:
    """What all models share: the embedding, the head and stacks of blocks."""

    num_memories = 0
    how: Mapping[str, Any] = {}  # a config's group ``memory``

    def __init__(self, config: Mapping[str, Any], parameters: Parameters) -> None:
        """Take the model's group of a config and the parameters by the package's names."""
        self.config, self.parameters = config, parameters
        self.num_segments: int = config.get("num_segments", 1)
        self.training = True

    def embed(self, tokens: Tensor) -> Tensor:
        return embedding(tokens, self.parameters["embedding.weight"])

    def head(self, hidden: Tensor) -> Tensor:
        logits = hidden @ self.parameters["head.weight"].T
        return logits + self.parameters["head.bias"] if "head.bias" in self.parameters else logits

    def stack(self, hidden: Tensor, prefix: str) -> Tensor:
        """Return (B, T, D) after the blocks whose names begin with a prefix."""
        heads, causal = self.config["num_heads"], self.config["causal"]
        for index in range(self.config["num_layers"]):
            hidden = layers.block(hidden, self.parameters, f"{prefix}.{index}", heads, causal)
        return hidden

    def learned_state(self, num_states: int, num_lanes: int, length: int) -> State:
        states = (self.parameters[f"initial_states.{index}"] for index in range(num_states))
        return tuple(state[:length].expand(num_lanes, -1, -1) for state in states)

    def zero_state(self, num_states: int, num_lanes: int, length: int) -> State:
        zeros = self.parameters["embedding.weight"].new_zeros(num_lanes, length, self.config["width"])
        return (zeros,) * num_states

    def initial_state(self, num_lanes: int, length: int) -> State:
        return ()

    def initial_memory(self, num_lanes: int) -> Memories:
        if not self.num_memories:
            return ()
        heads, like = self.config["num_heads"], self.parameters["embedding.weight"].detach()
        sizes = (num_lanes, heads, self.config["width"] // heads)
        return [MatrixMemory(*sizes, like=like, how=self.how) for _ in range(self.num_memories)]

    def segment(self, tokens: Tensor, state: State, memory: Memories, index: int) -> tuple[Tensor, State]:
        """Return logits (B, T, V) and the new state; ``memory`` notes what to write after the last segment."""
        raise NotImplementedError


class Levels(Model):
    """Levels of blocks, each updated when its period ends."""

    def update(self, step: int, x: Tensor, state: State, memory: Memories) -> State:
        """Return the state after step number ``step``, from 1, on the input x."""
        sequential = self.config["update"] == "sequential"
        new = list(state)
        for level, period in enumerate(self.config["periods"]):
            if step % period == 0:
                inputs = total(new if sequential else state)
                if level == 0 or not sequential:
                    inputs = inputs + x
                new[level] = self.advance(level, inputs, memory)
        return tuple(new)

    def advance(self, level: int, inputs: Tensor, memory: Memories) -> Tensor:
        return self.stack(inputs, f"levels.{level}")


class HRM(Levels):
    """Levels on one input; only the last steps of a segment carry gradient."""

    def initial_state(self, num_lanes: int, length: int) -> State:
        return self.learned_state(len(self.config["periods"]), num_lanes, length)

    def segment(self, tokens: Tensor, state: State, memory: Memories, index: int) -> tuple[Tensor, State]:
        x = self.read(tokens, memory)
        num_steps = self.config["num_cycles"] * self.config["num_timesteps"]
        with_gradient = torch.is_grad_enabled()
        for step in range(1, num_steps + 1):
            with torch.set_grad_enabled(with_gradient and step > num_steps - self.config["gradient_depth"]):
                state = self.update(step, x, state, memory)
        return self.head(state[-1]), state

    def read(self, tokens: Tensor, memory: Memories) -> Tensor:
        return self.embed(tokens)

    def memory_parameters(self, prefix: str) -> tuple[Tensor, Tensor, Tensor]:
        qkv, output, gate = (self.parameters[f"{prefix}.{name}"] for name in ("qkv.weight", "output.weight", "gate"))
        return qkv, output, gate


class HRMMemory(HRM):
    """An HRM with a memory on the hidden state of each level."""

    def __init__(self, config: Mapping[str, Any], parameters: Parameters) -> None:
        super().__init__(config, parameters)
        self.num_memories = len(config["periods"])

    def advance(self, level: int, inputs: Tensor, memory: Memories) -> Tensor:
        weights, heads = self.memory_parameters(f"memories.{level}"), self.config["num_heads"]
        hidden = super().advance(level, inputs, memory)
        return layers.hidden_state_memory(hidden, memory[level], *weights, heads)


class InfiniHRM(HRM):
    """An HRM on the output of an Infini-attention layer."""

    num_memories = 1

    def read(self, tokens: Tensor, memory: Memories) -> Tensor:
        weights, causal = self.memory_parameters("infini_attention"), self.config["causal"]
        positions = self.config["local_positions"]
        return layers.infini_attention(self.embed(tokens), memory[0], *weights, causal, positions)


class LCT(Levels):
    """Levels over a lagged cache of their states, one step per segment."""

    def initial_state(self, num_lanes: int, length: int) -> State:
        zeros = self.zero_state(len(self.config["periods"]), num_lanes, length)
        return tuple(self.config["state_std"] * torch.randn_like(z) for z in zeros) if self.training else zeros

    def segment(self, tokens: Tensor, state: State, memory: Memories, index: int) -> tuple[Tensor, State]:
        state = self.update(index + 1, self.embed(tokens), state, memory)
        return self.head(torch.cat(state, dim=-1)), state


class LSTM(Model):
    """A long short-term memory, which goes on from window to window."""

    def initial_memory(self, num_lanes: int) -> Memories:
        zeros = self.parameters["head.weight"].detach().new_zeros(num_lanes, self.config["width"])
        return [StateMemory((zeros, zeros), self.how)]

    def segment(self, tokens: Tensor, state: State, memory: Memories, index: int) -> tuple[Tensor, State]:
        return self.head(layers.lstm(self.embed(tokens), self.parameters, "recurrent", memory[0])), ()


class GatedDeltaNet(Model):
    """Pre-norm blocks of the gated delta rule."""

    def initial_memory(self, num_lanes: int) -> Memories:
        width, heads = self.config["width"], self.config["num_heads"]
        zeros = self.parameters["head.weight"].detach().new_zeros
        sizes = ((num_lanes, heads, width // heads, width // heads), (num_lanes, 3, 3 * width))
        return [StateMemory(tuple(map(zeros, sizes)), self.how) for _ in range(self.config["num_layers"])]

    def segment(self, tokens: Tensor, state: State, memory: Memories, index: int) -> tuple[Tensor, State]:
        weights, hidden = self.parameters, self.embed(tokens)
        for block, part in enumerate(memory):
            name = f"blocks.{block}"
            normed = layers.rms_norm(hidden, weights[f"{name}.delta_norm.weight"])
            hidden = hidden + layers.delta_layer(normed, weights, f"{name}.delta", self.config["num_heads"], part)
            normed = layers.rms_norm(hidden, weights[f"{name}.feed_forward_norm.weight"])
            both = (weights[f"{name}.feed_forward.{part}.weight"] for part in ("gate_up", "down"))
            hidden = hidden + layers.feed_forward(normed, *both)
        return self.head(layers.rms_norm(hidden, weights["norm.weight"])), ()


class Transformer(Model):
    """Blocks over the embedding plus their own last output, which is zero at first."""

    def initial_state(self, num_lanes: int, length: int) -> State:
        return self.zero_state(1, num_lanes, length)

    def segment(self, tokens: Tensor, state: State, memory: Memories, index: int) -> tuple[Tensor, State]:
        hidden = self.stack(state[0] + self.embed(tokens), "blocks")
        return self.head(hidden), (hidden,)


class TransformerXL(Model):
    """Blocks over a window and the list of states that they have read before it."""

    def initial_memory(self, num_lanes: int) -> Memories:
        return [StateMemory((), self.how) for _ in range(self.config["num_layers"])]

    def segment(self, tokens: Tensor, state: State, memory: Memories, index: int) -> tuple[Tensor, State]:
        hidden, length = self.embed(tokens), self.config["cache_length"]
        for block, part in enumerate(memory):
            part.last = (*part.state, *hidden.unbind(dim=1))[-length:]
            hidden = layers.relative_block(hidden, part.state, self.parameters, f"blocks.{block}")
        return self.head(hidden), ()


class TRM(Model):
    """One network for an answer and a latent; only the last cycle carries gradient."""

    def initial_state(self, num_lanes: int, length: int) -> State:
        return self.learned_state(2, num_lanes, length)

    def segment(self, tokens: Tensor, state: State, memory: Memories, index: int) -> tuple[Tensor, State]:
        x = self.embed(tokens)
        y, z = state
        with_gradient = torch.is_grad_enabled()
        for cycle in range(1, self.config["num_cycles"] + 1):
            with torch.set_grad_enabled(with_gradient and cycle == self.config["num_cycles"]):
                for _ in range(self.config["num_latent_updates"]):
                    z = self.stack(x + y + z, "net")
                y = self.stack(y + z, "net")
        return self.head(y), (y, z)


class UniversalTransformer(Model):
    """The same blocks in each loop, over the embedding plus their own last output, which is zero at first."""

    def initial_state(self, num_lanes: int, length: int) -> State:
        return self.zero_state(1, num_lanes, length)

    def segment(self, tokens: Tensor, state: State, memory: Memories, index: int) -> tuple[Tensor, State]:
        hidden = state[0] + self.embed(tokens)
        for loop in range(self.config["num_loops"]):
            hidden = self.stack(hidden + self.parameters[f"loop_signals.{loop}"], "blocks")
        return self.head(hidden), (hidden,)


class OneStepTRM(TRM):
    """A TRM of which only the last update of each state carries gradient."""

    def segment(self, tokens: Tensor, state: State, memory: Memories, index: int) -> tuple[Tensor, State]:
        x = self.embed(tokens)
        y, z = state
        updates = self.config["num_latent_updates"]
        with_gradient = torch.is_grad_enabled()
        for update in range(1, self.config["num_cycles"] * updates + 1):
            is_last = update == self.config["num_cycles"] * updates
            with torch.set_grad_enabled(with_gradient and is_last):
                z = self.stack(x + y + z, "net")
                y = self.stack(y + z, "net") if update % updates == 0 else y
        return self.head(y), (y, z)


def total(states: Sequence[Tensor]) -> Tensor:
    """Return the sum of one or more states."""
    return sum(states[1:], start=states[0])


MODELS: dict[str, type[Model]] = {  # by a config's _target_
    "hrm_bench.models.gated_delta_net.GatedDeltaNet": GatedDeltaNet,
    "hrm_bench.models.hrm.HRM": HRM,
    "hrm_bench.models.hrm_memory.HRMMemory": HRMMemory,
    "hrm_bench.models.infini_hrm.InfiniHRM": InfiniHRM,
    "hrm_bench.models.lct.LCT": LCT,
    "hrm_bench.models.lstm.LSTM": LSTM,
    "hrm_bench.models.transformer.Transformer": Transformer,
    "hrm_bench.models.transformer_xl.TransformerXL": TransformerXL,
    "hrm_bench.models.trm.TRM": TRM,
    "hrm_bench.models.ut.UniversalTransformer": UniversalTransformer,
    "hrm_bench.models.trm_one_step.OneStepTRM": OneStepTRM,
}
