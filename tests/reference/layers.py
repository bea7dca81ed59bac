"""Layers as functions of their parameters: one operation per term of a formula, nothing fused.

Shapes: B lanes, T characters, D width, H heads, K head width; S characters that a memory holds. Weights are
(output, input), as in ``torch.nn.Linear``.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import elu, silu

ROTARY_BASE = 10_000.0
NORM_EPSILON = 1e-6
MEMORY_EPSILON = 1e-6

Parameters = Mapping[str, Tensor]


def rms_norm(hidden: Tensor, weight: Tensor) -> Tensor:
    """Return x / √(mean x² + ε) · w."""
    return hidden / torch.sqrt((hidden * hidden).mean(dim=-1, keepdim=True) + NORM_EPSILON) * weight


def project(hidden: Tensor, qkv: Tensor, num_heads: int) -> list[Tensor]:
    """Return queries, keys and values, each (..., H, T, K), of hidden vectors (..., T, D).

    A weight of 2·D rows has one matrix for queries and keys.
    """
    first, *others = qkv.split(hidden.shape[-1])
    weights = (first, *others) if len(others) == 2 else (first, first, *others)
    return [(hidden @ weight.T).unflatten(-1, (num_heads, -1)).transpose(-3, -2) for weight in weights]


def merge(heads: Tensor, output: Tensor) -> Tensor:
    """Return the projected outputs (..., T, D) of heads (..., H, T, K)."""
    return heads.transpose(-3, -2).flatten(-2) @ output.T


@functools.cache
def rotation(length: int, head_width: int, device: torch.device) -> Tensor:
    """Return the complex numbers (T, K/2) that turn the pairs of each position; angles in single precision."""
    frequencies = ROTARY_BASE ** (-torch.arange(0, head_width, 2).double() / head_width)
    angles = torch.outer(torch.arange(length).double(), frequencies)
    return torch.complex(angles.cos().float(), angles.sin().float()).to(device)


def rotate(heads: Tensor) -> Tensor:
    """Turn each pair (i, i + K/2) of (..., T, K) heads by the angle of its position."""
    first, second = heads.chunk(2, dim=-1)
    turned = torch.complex(first, second) * rotation(heads.shape[-2], heads.shape[-1], heads.device)
    return torch.cat((turned.real, turned.imag), dim=-1)


@functools.cache
def future(length: int, device: torch.device) -> Tensor:
    """Return (T, T), true where column j is later than row i."""
    return torch.ones(length, length, dtype=torch.bool, device=device).triu(1)


def attend(queries: Tensor, keys: Tensor, values: Tensor, causal: bool) -> Tensor:
    """Return softmax(Q·Kᵀ / √K)·V, each (..., T, K); with ``causal``, no position sees a later one."""
    scores = queries @ keys.transpose(-1, -2) / math.sqrt(queries.shape[-1])  # (..., T, T)
    if causal:
        scores = scores.masked_fill(future(scores.shape[-1], scores.device), -math.inf)
    return torch.softmax(scores, dim=-1) @ values


def self_attention(hidden: Tensor, qkv: Tensor, output: Tensor, num_heads: int, causal: bool = True) -> Tensor:
    """Return multi-head attention with rotary positions over (..., T, D)."""
    queries, keys, values = project(hidden, qkv, num_heads)
    return merge(attend(rotate(queries), rotate(keys), values, causal), output)


def feed_forward(hidden: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """Return (SiLU(x·W_gate) ⊙ x·W_up) · W_down."""
    gate, up = (hidden @ weight.T for weight in gate_up.chunk(2))
    return (silu(gate) * up) @ down.T


def block(hidden: Tensor, parameters: Parameters, prefix: str, num_heads: int, causal: bool = True) -> Tensor:
    """Return (..., T, D) after attention and the feed-forward, each followed by the norm of the residual sum."""

    def weight(name: str) -> Tensor:
        return parameters[f"{prefix}.{name}.weight"]

    attended = self_attention(hidden, weight("attention.qkv"), weight("attention.output"), num_heads, causal)
    hidden = rms_norm(hidden + attended, weight("attention_norm"))
    fed = feed_forward(hidden, weight("feed_forward.gate_up"), weight("feed_forward.down"))
    return rms_norm(hidden + fed, weight("feed_forward_norm"))


def feature(heads: Tensor, kind: str = "elu") -> Tensor:
    """Return σ(x) = ELU(x) + 1, or for ``l2`` SiLU(x) / |SiLU(x)|."""
    if kind == "l2":
        return silu(heads) / torch.sqrt((silu(heads) ** 2).sum(dim=-1, keepdim=True))
    return elu(heads) + 1


class PairMemory:
    """An associative memory as the list of written pairs (σ(k), v), which are weighed anew for each query.

    ``how`` has values of a config's group ``memory``; what it lacks is as published.
    """

    def __init__(self, how: Mapping[str, Any] | None = None) -> None:
        self.how = how or {}
        self.kind: str = self.how.get("features", "elu")
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.last: tuple[Tensor, Tensor] | None = None  # keys and values that ``commit`` writes

    def answer(self, queries: Tensor) -> Tensor:
        """Return Σ wₛ·vₛ / (Σ wₛ + ε), for ``l2`` Σ wₛ·vₛ, with wₛ = σ(q)·σ(kₛ) for each query (..., T, K)."""
        if not self.keys:
            return torch.zeros_like(queries)
        weights = feature(queries, self.kind) @ torch.cat(self.keys, dim=-2).transpose(-1, -2)  # (..., T, S)
        total = 1 if self.kind == "l2" else weights.sum(dim=-1, keepdim=True) + MEMORY_EPSILON
        return weights @ torch.cat(self.values, dim=-2) / total

    def commit(self, rule: str) -> None:
        """Write the last keys and values (..., T, K); the delta rule writes V minus the memory's answer to K."""
        assert self.last is not None
        keys, values = self.last
        if self.how.get("gradient") != "through":
            keys, values = keys.detach(), values.detach()
        if self.how.get("bind") == "previous":
            keys, values = keys[..., :-1, :], values[..., 1:, :]
        self.add(feature(keys, self.kind), values - self.answer(keys) if rule == "delta" else values)

    def add(self, keys: Tensor, values: Tensor) -> None:
        self.keys.append(keys)
        self.values.append(values)


class MatrixMemory(PairMemory):
    """The same memory as a matrix Σ σ(k)·vᵀ (B, H, K, K) and a normalizer Σ σ(k) (B, H, 1, K), empty at first."""

    def __init__(
        self, num_lanes: int, num_heads: int, head_width: int, *, like: Tensor, how: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(how)
        self.matrix = like.new_zeros(num_lanes, num_heads, head_width, head_width)
        self.normalizer = like.new_zeros(num_lanes, num_heads, 1, head_width)

    def answer(self, queries: Tensor) -> Tensor:
        weights = feature(queries, self.kind)
        total = 1 if self.kind == "l2" else (weights * self.normalizer).sum(dim=-1, keepdim=True) + MEMORY_EPSILON
        return weights @ self.matrix / total

    def detach(self) -> None:
        self.matrix, self.normalizer = self.matrix.detach(), self.normalizer.detach()

    def add(self, keys: Tensor, values: Tensor) -> None:
        self.matrix = self.matrix + keys.transpose(-1, -2) @ values
        self.normalizer = self.normalizer + keys.sum(dim=-2, keepdim=True)


def infini_attention(
    hidden: Tensor,
    memory: PairMemory,
    qkv: Tensor,
    output: Tensor,
    gate: Tensor,
    causal: bool = True,
    positions: str = "none",
) -> Tensor:
    """Return (..., T, D): the memory's answer and local attention, mixed by a gate per head.

    With ``rotary`` positions, local attention alone has them.
    """
    queries, keys, values = project(hidden, qkv, len(gate))
    memory.last = keys, values
    answer = memory.answer(queries)
    if positions == "rotary":
        queries, keys = rotate(queries), rotate(keys)
    weight = torch.sigmoid(gate)[:, None, None]
    return merge(weight * answer + (1 - weight) * attend(queries, keys, values, causal), output)


def hidden_state_memory(
    hidden: Tensor, memory: PairMemory, qkv: Tensor, output: Tensor, gate: Tensor, num_heads: int
) -> Tensor:
    """Return (..., T, D): the memory's answer and the hidden state, mixed by a gate per component."""
    queries, keys, values = project(hidden, qkv, num_heads)
    memory.last = keys, values
    weight = torch.sigmoid(hidden @ gate.T)
    return weight * merge(memory.answer(queries), output) + (1 - weight) * hidden


class StateMemory:
    """The state in which a window ends, as tensors with the lane first, from which the next one starts."""

    def __init__(self, start: tuple[Tensor, ...], how: Mapping[str, Any]) -> None:
        self.state, self.how, self.last = start, how, start

    def commit(self, rule: str) -> None:
        self.state = self.last
        if self.how.get("gradient") != "through":
            self.detach()

    def detach(self) -> None:
        self.state = tuple(part.detach() for part in self.state)


def lstm(inputs: Tensor, parameters: Parameters, prefix: str, memory: StateMemory) -> Tensor:
    """Return the hidden states (B, T, D) of one recurrent layer, computed one character after another."""
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    from_input, from_hidden, input_bias, hidden_bias = (parameters[f"{prefix}.{name}"].chunk(4) for name in names)
    hidden, cell = memory.state
    states = []
    for x in inputs.unbind(dim=1):
        i, f, g, o = (
            x @ from_input[gate].T + input_bias[gate] + hidden @ from_hidden[gate].T + hidden_bias[gate]
            for gate in range(4)
        )
        cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
        hidden = torch.sigmoid(o) * torch.tanh(cell)
        states.append(hidden)
    memory.last = hidden, cell
    return torch.stack(states, dim=1)


def delta_layer(hidden: Tensor, parameters: Parameters, prefix: str, num_heads: int, memory: StateMemory) -> Tensor:
    """Return (B, T, D) of a layer of Gated DeltaNet, one character after another.

    The state is S (B, H, K, K), from keys to values, and the last three inputs (B, 3, 3·D) of the convolution.
    """
    names = ("qkv", "convolution", "rates", "output_gate", "output", "norm")
    qkv, kernel, rates, output_gate, output, norm = (parameters[f"{prefix}.{name}.weight"] for name in names)
    matrix, inputs = memory.state
    outputs = []
    for x in hidden.unbind(dim=1):
        inputs = torch.cat((inputs, (x @ qkv.T)[:, None]), dim=1)[:, -4:]
        mixed = silu((inputs * kernel[:, 0].T).sum(dim=1))
        query, key, value = (part.unflatten(-1, (num_heads, -1)) for part in mixed.chunk(3, dim=-1))  # (B, H, K)
        query, key = (part / torch.sqrt((part * part).sum(dim=-1, keepdim=True)) for part in (query, key))
        raw_beta, raw_alpha = (x @ rates.T).chunk(2, dim=-1)
        beta = torch.sigmoid(raw_beta)[..., None, None]
        step = torch.log(1 + torch.exp(raw_alpha + parameters[f"{prefix}.bias"]))
        alpha = torch.exp(-torch.exp(parameters[f"{prefix}.log_scale"]) * step)[..., None, None]
        matrix = alpha * matrix
        error = value[..., None, :] - key[..., None, :] @ matrix  # (B, H, 1, K)
        matrix = matrix + beta * key[..., :, None] * error
        read = rms_norm((query[..., None, :] @ matrix)[..., 0, :], norm).flatten(1)
        outputs.append((read * silu(x @ output_gate.T)) @ output.T)
        inputs = inputs[:, -3:]
    memory.last = matrix, inputs
    return torch.stack(outputs, dim=1)


def sinusoid(distance: int, width: int) -> Tensor:
    """Return sin and cos of distance · base^(−2i/D), in single precision."""
    angles = distance * ROTARY_BASE ** (-torch.arange(0, width, 2).double() / width)
    return torch.cat((torch.sin(angles), torch.cos(angles))).float()


def relative_attention(hidden: Tensor, cached: tuple[Tensor, ...], parameters: Parameters, prefix: str) -> Tensor:
    """Return (B, T, D) of attention with relative positions, one query and one key after another.

    ``cached`` are the states (B, D) of the characters before the window, oldest first.
    """
    query, key, value = parameters[f"{prefix}.qkv.weight"].chunk(3)
    distance, output = (parameters[f"{prefix}.{name}.weight"] for name in ("distance", "output"))
    of_content, of_distance = parameters["biases.0"], parameters["biases.1"]  # (H, K)
    num_heads, width = len(of_content), hidden.shape[-1]
    read = [*cached, *hidden.unbind(dim=1)]
    outputs = []
    for position in range(len(cached), len(read)):
        q = (read[position] @ query.T).unflatten(-1, (num_heads, -1))  # (B, H, K)
        scores = []
        for other in range(position + 1):
            k = (read[other] @ key.T).unflatten(-1, (num_heads, -1))
            signal = sinusoid(position - other, width).to(hidden.device, hidden.dtype)
            r = (distance @ signal).unflatten(-1, (num_heads, -1))
            total = (q * k).sum(-1) + (q * r).sum(-1) + (of_content * k).sum(-1) + (of_distance * r).sum(-1)
            scores.append(total / math.sqrt(q.shape[-1]))
        weights = torch.softmax(torch.stack(scores), dim=0)  # (S, B, H)
        values = torch.stack([(x @ value.T).unflatten(-1, (num_heads, -1)) for x in read[: position + 1]])
        outputs.append((weights[..., None] * values).sum(dim=0).flatten(1) @ output.T)
    return torch.stack(outputs, dim=1)


def relative_block(hidden: Tensor, cached: tuple[Tensor, ...], parameters: Parameters, prefix: str) -> Tensor:
    """Return (B, T, D) after relative attention and the feed-forward, each followed by the norm of the sum."""
    weights = {name: parameters[f"{prefix}.{name}.weight"] for name in ("attention_norm", "feed_forward_norm")}
    attended = relative_attention(hidden, cached, parameters, f"{prefix}.attention")
    hidden = rms_norm(hidden + attended, weights["attention_norm"])
    both = (parameters[f"{prefix}.feed_forward.{part}.weight"] for part in ("gate_up", "down"))
    return rms_norm(hidden + feed_forward(hidden, *both), weights["feed_forward_norm"])
