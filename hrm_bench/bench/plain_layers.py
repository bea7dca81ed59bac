"""The layers again, written plainly: what a formula says, an operation after another, nothing fused.

Shapes: B lanes, T characters, D width, H heads, K head width.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

ROTARY_BASE = 10_000.0
NORM_EPSILON = 1e-6
MEMORY_EPSILON = 1e-6

PlainMemory = tuple[Tensor, Tensor]  # M (B, H, K, K) and z (B, H, K)


class RMSNorm(nn.Module):
    """x / √(mean x² + ε) · w."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden / torch.sqrt(hidden.pow(2).mean(dim=-1, keepdim=True) + NORM_EPSILON) * self.weight


class Heads(nn.Module):
    """Queries, keys and values by a projection each, and the projection of the heads' outputs."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width, bias=False)

    def project(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.split(self.query(hidden)), self.split(self.key(hidden)), self.split(self.value(hidden))

    def split(self, hidden: Tensor) -> Tensor:
        """(B, T, D) → (B, H, T, K)."""
        lanes, length, width = hidden.shape
        return hidden.view(lanes, length, self.num_heads, width // self.num_heads).transpose(1, 2)

    def merge(self, heads: Tensor) -> Tensor:
        """(B, H, T, K) → (B, T, D), projected."""
        lanes, num_heads, length, head_width = heads.shape
        return self.output(heads.transpose(1, 2).reshape(lanes, length, num_heads * head_width))


def later(window: int, causal: bool) -> Tensor:
    """(T, T), true where a position must not look; nowhere, where it may look everywhere."""
    return torch.full((window, window), causal).triu(1)


def attend(queries: Tensor, keys: Tensor, values: Tensor, hidden: Tensor) -> Tensor:
    """softmax(Q·Kᵀ / √K)·V, each (B, H, T, K), with −∞ where ``hidden`` is true."""
    length = queries.shape[-2]
    scores = queries @ keys.transpose(-1, -2) / math.sqrt(queries.shape[-1])  # (B, H, T, T)
    scores = scores.masked_fill(hidden[:length, :length], -math.inf)
    return torch.softmax(scores, dim=-1) @ values


class Attention(Heads):
    """Multi-head attention with rotary positions: each pair (i, i + K/2) turned by its position's angle."""

    def __init__(self, width: int, num_heads: int, window: int, causal: bool) -> None:
        super().__init__(width, num_heads)
        head_width = width // num_heads
        frequencies = ROTARY_BASE ** (-torch.arange(0, head_width, 2).double() / head_width)
        angles = torch.outer(torch.arange(window).double(), frequencies).repeat(1, 2)  # (T, K)
        self.cosines: Tensor
        self.sines: Tensor
        self.later: Tensor
        self.register_buffer("cosines", angles.cos().float(), persistent=False)
        self.register_buffer("sines", angles.sin().float(), persistent=False)
        self.register_buffer("later", later(window, causal), persistent=False)

    def forward(self, hidden: Tensor) -> Tensor:
        queries, keys, values = self.project(hidden)
        return self.merge(attend(self.turn(queries), self.turn(keys), values, self.later))

    def turn(self, heads: Tensor) -> Tensor:
        length, half = heads.shape[-2], heads.shape[-1] // 2
        turned = torch.cat((-heads[..., half:], heads[..., :half]), dim=-1)
        return heads * self.cosines[:length] + turned * self.sines[:length]


class FeedForward(nn.Module):
    """SiLU(x·W_gate) ⊙ (x·W_up) · W_down."""

    def __init__(self, width: int, hidden_width: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, hidden_width, bias=False)
        self.up = nn.Linear(width, hidden_width, bias=False)
        self.down = nn.Linear(hidden_width, width, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.down(functional.silu(self.gate(hidden)) * self.up(hidden))


class Block(nn.Module):
    """Attention, then the feed-forward, each followed by the norm of the residual sum."""

    def __init__(self, width: int, num_heads: int, hidden_width: int, window: int, causal: bool) -> None:
        super().__init__()
        self.attention = Attention(width, num_heads, window, causal)
        self.attention_norm = RMSNorm(width)
        self.feed_forward = FeedForward(width, hidden_width)
        self.feed_forward_norm = RMSNorm(width)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = self.attention_norm(hidden + self.attention(hidden))
        return self.feed_forward_norm(hidden + self.feed_forward(hidden))


def features(heads: Tensor) -> Tensor:
    """σ = ELU + 1."""
    return functional.elu(heads) + 1


def retrieve(memory: PlainMemory, queries: Tensor) -> Tensor:
    """σ(Q)·M / (σ(Q)·z + ε)."""
    matrix, normalizer = memory
    found = features(queries)
    return found @ matrix / ((found * normalizer[:, :, None, :]).sum(dim=-1, keepdim=True) + MEMORY_EPSILON)


def written(memory: PlainMemory, keys: Tensor, values: Tensor, rule: str) -> PlainMemory:
    """What is added: σ(K)ᵀV, or by the delta rule σ(K)ᵀ(V − what is answered to K); and Σ σ(K)."""
    keys, values = keys.detach(), values.detach()
    if rule == "delta":
        values = values - retrieve(memory, keys)
    return features(keys).transpose(-1, -2) @ values, features(keys).sum(dim=-2)


class InfiniAttention(Heads):
    """sigmoid(g) ⊙ what the memory answers + (1 − sigmoid(g)) ⊙ local attention, without positions."""

    def __init__(self, width: int, num_heads: int, window: int, causal: bool, rule: str) -> None:
        super().__init__(width, num_heads)
        self.rule = rule
        self.gate = nn.Parameter(torch.zeros(num_heads))
        self.later: Tensor
        self.register_buffer("later", later(window, causal), persistent=False)

    def forward(self, hidden: Tensor, memory: PlainMemory) -> tuple[Tensor, PlainMemory]:
        queries, keys, values = self.project(hidden)
        share = torch.sigmoid(self.gate)[None, :, None, None]
        mixed = share * retrieve(memory, queries) + (1 - share) * attend(queries, keys, values, self.later)
        return self.merge(mixed), written(memory, keys, values, self.rule)


class HiddenStateMemory(Heads):
    """sigmoid(h·W_g) ⊙ what the memory answers + (1 − sigmoid(h·W_g)) ⊙ h."""

    def __init__(self, width: int, num_heads: int, rule: str) -> None:
        super().__init__(width, num_heads)
        self.rule = rule
        self.gate = nn.Parameter(torch.zeros(width, width))

    def forward(self, hidden: Tensor, memory: PlainMemory) -> tuple[Tensor, PlainMemory]:
        queries, keys, values = self.project(hidden)
        gate = torch.sigmoid(hidden @ self.gate.T)
        return gate * self.merge(retrieve(memory, queries)) + (1 - gate) * hidden, written(
            memory, keys, values, self.rule
        )


class LSTM(nn.Module):
    """One recurrent layer, a character after another, with a linear map for each gate of each input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.from_input = nn.ModuleList(nn.Linear(width, width) for _ in "ifgo")
        self.from_hidden = nn.ModuleList(nn.Linear(width, width) for _ in "ifgo")

    def forward(self, inputs: Tensor) -> Tensor:  # (B, T, D) → (B, T, D)
        hidden = cell = inputs.new_zeros(inputs.shape[0], inputs.shape[2])
        found = []
        for x in inputs.unbind(dim=1):
            i, f, g, o = (
                from_input(x) + from_hidden(hidden)
                for from_input, from_hidden in zip(self.from_input, self.from_hidden, strict=True)
            )
            cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
            hidden = torch.sigmoid(o) * torch.tanh(cell)
            found.append(hidden)
        return torch.stack(found, dim=1)
