"""Gated DeltaNet (arXiv 2412.06464): the control whose memory is a matrix, written at each character by the delta rule.

A layer reads x (T, D). For each head, with W·x of the last four characters mixed by a convolution:

    q, k, v = SiLU(conv(W_q·x)), SiLU(conv(W_k·x)), SiLU(conv(W_v·x));  q and k are scaled to length 1
    β = sigmoid(W_β·x)                                 (how much of an error is written)
    α = exp(−exp(a)·softplus(W_α·x + b))               (how much of the past stays)
    S_t = α_t·(I − β_t·k_t·k_tᵀ)·S_{t−1} + β_t·k_t·v_tᵀ   (eq. 10, transposed)
    output = (RMSNorm(S_tᵀ·q_t) ⊙ SiLU(W_g·x))·W_o

A block is x + layer(RMSNorm(x)), then x + feed-forward(RMSNorm(x)); the head reads RMSNorm(x). S and the last three
inputs of the convolution are the memory of a layer. They go on exactly from character to character and, with
``memory=carry`` or within a sample, from window to window. In a window the gradient goes through every write, and with
``memory.gradient=through`` it goes through those of earlier windows too.

All characters of a window are computed at once (section 3.3): what they write solves one triangular system.

151,920 parameters at F = 249, against HRM's 152,064.

a and b are drawn as in Mamba-2 (arXiv 2405.21060): at first a head forgets at 0.001 to 1.6 per character. They and the
convolution come from the generator that hrm_bench.build seeds.

# differs from the paper: queries are not divided by √K, which the norm of the output would undo.

Shapes: B lanes, T characters, D width, H heads, K head width, F hidden width of the feed-forward.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from hrm_bench.charlm import CharLM, Setting, State
from hrm_bench.errors import ConfigFault
from hrm_bench.layers.attention import merge_heads, split_heads
from hrm_bench.layers.block import NORM_EPSILON, GatedFeedForward
from hrm_bench.layers.carried import Memory
from hrm_bench.layers.dropout import Dropout, Embedding, Head

KERNEL = 4  # characters that the convolution mixes


class DeltaState(NamedTuple):
    """The memory of one layer."""

    matrix: Tensor  # S, (B, H, K, K), from keys to values
    inputs: Tensor  # (B, KERNEL − 1, 3·D), the last that the convolution has read


def gated_delta_rule(
    queries: Tensor, keys: Tensor, values: Tensor, betas: Tensor, log_alphas: Tensor, matrix: Tensor
) -> tuple[Tensor, Tensor]:
    """Return what the queries of a window read, each after its own write, and the matrix after the window.

    With γ_t = α_1⋯α_t and S_0 the matrix before the window, character i writes k_i·u_iᵀ, and
    u_t + β_t·Σ_{i<t} γ_t/γ_i·(k_t·k_i)·u_i = β_t·(v_t − γ_t·S_0ᵀ·k_t).

    Args:
        queries: (B, H, T, K), as are keys and values.
        betas: (B, H, T), as are the logarithms of α.
        matrix: S_0, (B, H, K, K).
    """
    elapsed = log_alphas.cumsum(dim=-1)  # log γ_t
    gammas = elapsed.exp()[..., None]
    ratios = (elapsed[..., None] - elapsed[..., None, :]).tril().exp().tril()  # γ_t / γ_i for i ≤ t, else 0
    betas = betas[..., None]
    system = (betas * ratios * (keys @ keys.mT)).tril(-1)
    errors = betas * (values - gammas * (keys @ matrix))
    written = torch.linalg.solve_triangular(system, errors, upper=False, unitriangular=True)  # u, (B, H, T, K)
    outputs = gammas * (queries @ matrix) + (ratios * (queries @ keys.mT)) @ written
    return outputs, gammas[..., -1:, :] * matrix + (ratios[..., -1, :, None] * keys).mT @ written


class DeltaLayer(nn.Module):
    """Heads that read and write a matrix each: (B, T, D) → (B, T, D) and the memory after it."""

    def __init__(self, *, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.convolution = nn.Conv1d(3 * width, 3 * width, KERNEL, groups=3 * width, bias=False)
        self.rates = nn.Linear(width, 2 * num_heads, bias=False)
        self.log_scale = nn.Parameter(torch.empty(num_heads).uniform_(1, 16).log())  # a
        steps = torch.empty(num_heads).uniform_(math.log(0.001), math.log(0.1)).exp()  # softplus(b)
        self.bias = nn.Parameter(steps + torch.log(-torch.expm1(-steps)))  # b
        self.norm = nn.RMSNorm(width // num_heads, eps=NORM_EPSILON)
        self.output_gate = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.dropout = Dropout("attention")

    def empty(self, num_lanes: int) -> DeltaState:
        width, head_width = self.output.in_features, self.output.in_features // self.num_heads
        zeros = self.output.weight.new_zeros
        return DeltaState(
            zeros(num_lanes, self.num_heads, head_width, head_width), zeros(num_lanes, KERNEL - 1, 3 * width)
        )

    def forward(self, hidden: Tensor, memory: DeltaState) -> tuple[Tensor, DeltaState]:
        inputs = torch.cat((memory.inputs, self.qkv(hidden)), dim=1)  # (B, KERNEL − 1 + T, 3·D)
        mixed = functional.silu(self.convolution(inputs.mT).mT)  # (B, T, 3·D)
        rates = self.rates(hidden).mT  # (B, 2·H, T)
        dtype = memory.matrix.dtype
        device_type = "cuda" if hidden.is_cuda else "cpu"
        with torch.autocast(device_type, enabled=False):  # a triangular system needs full precision
            queries, keys, values = split_heads(mixed.to(dtype), 3 * self.num_heads).chunk(3, dim=1)
            betas, alphas = rates.to(dtype).chunk(2, dim=1)
            log_alphas = -self.log_scale.exp()[:, None] * functional.softplus(alphas + self.bias[:, None])
            outputs, matrix = gated_delta_rule(
                functional.normalize(queries, dim=-1),
                functional.normalize(keys, dim=-1),
                values,
                betas.sigmoid(),
                log_alphas,
                memory.matrix,
            )
        gated = merge_heads(self.norm(outputs)) * functional.silu(self.output_gate(hidden))
        return self.dropout(self.output(gated)), DeltaState(matrix, inputs[:, -(KERNEL - 1) :].to(dtype))


class DeltaBlock(nn.Module):
    """A layer of the delta rule, then the feed-forward, each on the norm of what it is added to."""

    def __init__(self, *, width: int, num_heads: int, hidden_width: int) -> None:
        super().__init__()
        self.delta_norm = nn.RMSNorm(width, eps=NORM_EPSILON)
        self.delta = DeltaLayer(width=width, num_heads=num_heads)
        self.feed_forward_norm = nn.RMSNorm(width, eps=NORM_EPSILON)
        self.feed_forward = GatedFeedForward(width=width, hidden_width=hidden_width)

    def forward(self, hidden: Tensor, memory: DeltaState) -> tuple[Tensor, DeltaState]:
        added, memory = self.delta(self.delta_norm(hidden), memory)
        hidden = hidden + added
        return hidden + self.feed_forward(self.feed_forward_norm(hidden)), memory


class GatedDeltaNet(CharLM):
    """Pre-norm blocks, each with a memory that the gated delta rule writes at each character."""

    uses_memory = True

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The hyperparameters of a Gated DeltaNet."""

        width: int  # D
        num_heads: int
        hidden_width: int  # F
        num_layers: int  # blocks

        def __post_init__(self) -> None:
            if self.width % self.num_heads:
                fitting = [number for number in range(1, self.width + 1) if self.width % number == 0]
                nearest = min(fitting, key=lambda number: abs(number - self.num_heads))
                raise ConfigFault(
                    "num_heads",
                    f"model.num_heads={self.num_heads}: must divide model.width={self.width}; try "
                    f"model.num_heads={nearest}",
                )

    def __init__(self, config: Config, setting: Setting) -> None:
        super().__init__(setting, num_segments=1)
        self.embedding = Embedding(setting.vocabulary_size, config.width)
        self.blocks = nn.ModuleList(
            DeltaBlock(width=config.width, num_heads=config.num_heads, hidden_width=config.hidden_width)
            for _ in range(config.num_layers)
        )
        self.norm = nn.RMSNorm(config.width, eps=NORM_EPSILON)
        self.head = Head(config.width, setting.vocabulary_size)
        self.initialise(width=config.width)

    def initial_memory(self, num_lanes: int) -> Memory:
        return tuple(layer.empty(num_lanes) for layer in self.modules() if isinstance(layer, DeltaLayer))

    def segment(self, tokens: Tensor, state: State, memory: Memory, index: int) -> tuple[Tensor, State, Memory]:
        hidden, after = self.embedding(tokens), []
        for block, before in zip(self.blocks, memory, strict=True):
            hidden, left = block(hidden, before)
            after.append(left)
        return self.head(self.norm(hidden)), (), tuple(after)

    def commit(self, memory: Memory, update: Memory) -> Memory:
        """Return the update: it is what the last character of the window has left."""
        return update
