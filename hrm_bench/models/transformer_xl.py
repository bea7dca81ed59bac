"""Transformer-XL (arXiv 1901.02860): the control whose memory is the last characters' hidden states, read anew.

Let h be a layer's input in a window (T, D), and c the input that it had for the M characters before (M, D):

    q = W_q·h;  k, v = W_k·[c; h], W_v·[c; h]          (section 3.2: keys and values are recomputed from states)
    score of query i for key j = ((q_i + u)·k_j + (q_i + w)·r_{i−j}) / √K,  r_d = W_r·R_d          (section 3.3)
    output = softmax(scores)·v·W_o,  without later characters

R_d is the sinusoid of the distance d, and u and w are one vector per head for all layers. The last M states of [c; h],
of each layer, are the memory. If M is a window, a prediction depends on up to L·M characters before its window. The
paper keeps no gradient in c, as here by default; W_k and W_v are trained on cached states all the same. With
``memory.gradient=through`` a loss also trains what has made the states of earlier windows. A position of c into which
nothing was written is hidden from all queries, so with an empty memory this is a transformer with relative positions.

152,064 parameters at F = 256, as HRM has.

# differs from the paper: RMSNorm and a gated feed-forward as in HRM, post-norm as in the paper; no biases but u and w;
# dropout as the recipes use it, none of the attention's weights.
# differs from the paper: u and w begin at 0.02, and the embedding is not tied to the head.

Shapes: B lanes, T characters, D width, H heads, K head width, L layers, M cached characters, F hidden width of the
feed-forward.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from hrm_bench.charlm import CharLM, Setting, State
from hrm_bench.errors import ConfigFault
from hrm_bench.layers.attention import ROTARY_BASE, merge_heads, split_heads
from hrm_bench.layers.block import NORM_EPSILON, GatedFeedForward
from hrm_bench.layers.carried import Memory
from hrm_bench.layers.dropout import Dropout, Embedding, Head


class Cache(NamedTuple):
    """The memory: what each layer has read for the last M characters."""

    states: Tensor  # (B, L, M, D), oldest character first
    is_filled: Tensor  # (B, M), 1 where a character was read and 0 where not


def distance_signals(length: int, width: int) -> Tensor:
    """Return R (length, D) for the distances length − 1, …, 0: the sines, then the cosines, of d · base^(−2i/D)."""
    frequencies = ROTARY_BASE ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles = torch.outer(torch.arange(length - 1, -1, -1, dtype=torch.float64), frequencies)
    return torch.cat((angles.sin(), angles.cos()), dim=-1).float()


def by_key(scores: Tensor) -> Tensor:
    """Order scores (…, T, S) that are by falling distance S − 1, …, 0 by the key instead (appendix B).

    Query i of T is at position S − T + i of S, so its distance from key j is S − T + i − j. Entries of later keys are
    meaningless.
    """
    length, num_keys = scores.shape[-2:]
    padded = functional.pad(scores, (1, 0))  # each row becomes one longer, so that the next is one further to the right
    return padded.flatten(-2)[..., length:].unflatten(-1, (length, num_keys))


class RelativeAttention(nn.Module):
    """Attention of a window (B, T, D) on itself and on cached states (B, M, D), with relative positions."""

    def __init__(self, *, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.distance = nn.Linear(width, width, bias=False)  # W_r
        self.output = nn.Linear(width, width, bias=False)
        self.dropout = Dropout("attention")

    def forward(
        self, hidden: Tensor, cached: Tensor, is_hidden: Tensor, signals: Tensor, biases: nn.ParameterList
    ) -> Tensor:
        """Return (B, T, D).

        Args:
            is_hidden: (B, 1, T, M + T), true where a query must not see a key.
            signals: R of the distances M + T − 1, …, 0.
            biases: u and w, (H, K) each.
        """
        read = torch.cat((cached, hidden), dim=1)  # (B, M + T, D)
        queries, keys, values = split_heads(self.qkv(read), 3 * self.num_heads).chunk(3, dim=1)
        queries = queries[:, :, cached.shape[1] :]  # (B, H, T, K)
        distances = split_heads(self.distance(signals)[None], self.num_heads)  # (1, H, M + T, K)
        content_bias, distance_bias = (bias[:, None] for bias in biases)  # (H, 1, K)
        scores = (queries + content_bias) @ keys.mT + by_key((queries + distance_bias) @ distances.mT)
        scores = scores.masked_fill(is_hidden, -math.inf) / math.sqrt(queries.shape[-1])
        return self.dropout(self.output(merge_heads(scores.softmax(dim=-1) @ values)))


class RelativeBlock(nn.Module):
    """Relative attention, then the feed-forward, each followed by RMSNorm of the residual sum, as in HRM's block."""

    def __init__(self, *, width: int, num_heads: int, hidden_width: int) -> None:
        super().__init__()
        self.attention = RelativeAttention(width=width, num_heads=num_heads)
        self.attention_norm = nn.RMSNorm(width, eps=NORM_EPSILON)
        self.feed_forward = GatedFeedForward(width=width, hidden_width=hidden_width)
        self.feed_forward_norm = nn.RMSNorm(width, eps=NORM_EPSILON)

    def forward(
        self, hidden: Tensor, cached: Tensor, is_hidden: Tensor, signals: Tensor, biases: nn.ParameterList
    ) -> Tensor:
        attended = self.attention(hidden, cached, is_hidden, signals, biases)
        hidden = self.attention_norm(hidden + attended)
        return self.feed_forward_norm(hidden + self.feed_forward(hidden))


class TransformerXL(CharLM):
    """Blocks that also attend to what they have read in the windows before."""

    uses_memory = True

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The hyperparameters of a Transformer-XL."""

        width: int  # D
        num_heads: int
        hidden_width: int  # F
        num_layers: int  # L, blocks
        cache_length: int  # M, characters before a window whose states are kept

        def __post_init__(self) -> None:
            if self.width % (2 * self.num_heads):
                fitting = [number for number in range(1, self.width // 2 + 1) if self.width % (2 * number) == 0]
                nearest = min(fitting, key=lambda number: abs(number - self.num_heads), default=None)
                hint = f"model.num_heads={nearest}" if nearest else "model.width=64"
                raise ConfigFault(
                    "num_heads",
                    f"model.num_heads={self.num_heads}: must divide model.width={self.width} into heads of even "
                    f"width; try {hint}",
                )

    def __init__(self, config: Config, setting: Setting) -> None:
        super().__init__(setting, num_segments=1)
        self.cache_length = config.cache_length
        self.embedding = Embedding(setting.vocabulary_size, config.width)
        self.blocks = nn.ModuleList(
            RelativeBlock(width=config.width, num_heads=config.num_heads, hidden_width=config.hidden_width)
            for _ in range(config.num_layers)
        )
        head_width = config.width // config.num_heads
        self.biases = nn.ParameterList(torch.zeros(config.num_heads, head_width) for _ in ("u", "w"))
        self.signals: Tensor
        signals = distance_signals(config.cache_length + setting.window, config.width)
        self.register_buffer("signals", signals, persistent=False)
        self.head = Head(config.width, setting.vocabulary_size)
        self.initialise(width=config.width)

    def initial_memory(self, num_lanes: int) -> Memory:
        zeros = self.head.weight.new_zeros
        sizes = (num_lanes, len(self.blocks), self.cache_length, self.head.in_features)
        return Cache(zeros(sizes), zeros(num_lanes, self.cache_length))

    def segment(self, tokens: Tensor, state: State, memory: Memory, index: int) -> tuple[Tensor, State, Memory]:
        states, is_filled = memory
        num_lanes, length = tokens.shape
        hidden, inputs = self.embedding(tokens), []
        is_empty = (is_filled == 0)[:, None].expand(-1, length, -1)  # (B, T, M)
        is_later = is_empty.new_ones(length, length).triu(1).expand(num_lanes, -1, -1)
        is_hidden = torch.cat((is_empty, is_later), dim=-1)[:, None]  # (B, 1, T, M + T)
        signals = self.signals[-(self.cache_length + length) :]
        for block, cached in zip(self.blocks, states.unbind(dim=1), strict=True):
            inputs.append(hidden)
            hidden = block(hidden, cached, is_hidden, signals, self.biases)
        read = torch.cat((states, torch.stack(inputs, dim=1).to(states.dtype)), dim=2)  # (B, L, M + T, D)
        are_filled = torch.cat((is_filled, torch.ones_like(tokens, dtype=is_filled.dtype)), dim=1)
        update = Cache(read[:, :, -self.cache_length :], are_filled[:, -self.cache_length :])
        return self.head(hidden), (), update

    def commit(self, memory: Memory, update: Memory) -> Memory:
        """Return the update: the cache as it moves on by a window."""
        return update

    def memory_norm(self, memory: Memory) -> Tensor:
        """Return the norm of all cached states, mean over lanes."""
        return torch.linalg.vector_norm(memory[0].flatten(1), dim=1).mean()
