"""The mechanisms again, as slowly and plainly as they can be written, for the tests to compare with.

Nothing here shares code with the package: loops over lanes, heads and positions, an explicit softmax, rotations by
complex numbers. All of it is differentiable in the parameters that it is given.
"""

import cmath
import math

import torch


def rotated(vector, position, base=10_000.0):
    """A head's (K,) vector, its pairs (i, i + K/2) turned as complex numbers."""
    half = len(vector) // 2
    first, second = [], []
    for i in range(half):
        turn = cmath.exp(1j * position * base ** (-2 * i / (2 * half)))
        first.append(vector[i] * turn.real - vector[i + half] * turn.imag)
        second.append(vector[i] * turn.imag + vector[i + half] * turn.real)
    return torch.stack(first + second)


def projections(hidden, qkv, num_heads):
    """Queries, keys and values [head][position] of one lane's (T, D) hidden vectors."""
    width = hidden.shape[1]
    head_width = width // num_heads
    parts = []
    for part in range(3):
        weight = qkv[part * width : (part + 1) * width]
        projected = [weight @ vector for vector in hidden]
        parts.append(
            [[each[head * head_width : (head + 1) * head_width] for each in projected] for head in range(num_heads)]
        )
    return parts


def attend(queries, keys, values, causal):
    """One head: [position] lists of (K,) vectors."""
    out = []
    for i, query in enumerate(queries):
        seen = range(i + 1) if causal else range(len(keys))
        weights = [torch.exp(query @ keys[j] / math.sqrt(len(query))) for j in seen]
        total = sum(weights)
        out.append(sum(weight / total * values[j] for weight, j in zip(weights, seen, strict=True)))
    return out


def self_attention(hidden, qkv, output, num_heads, causal=True):
    """One lane's (T, D) through multi-head attention with rotary positions."""
    queries, keys, values = projections(hidden, qkv, num_heads)
    heads = [
        attend(
            [rotated(vector, i) for i, vector in enumerate(queries[head])],
            [rotated(vector, i) for i, vector in enumerate(keys[head])],
            values[head],
            causal,
        )
        for head in range(num_heads)
    ]
    return torch.stack([output @ torch.cat([head[i] for head in heads]) for i in range(len(hidden))])


def rms_norm(vector, weight, epsilon=1e-6):
    return vector / torch.sqrt((vector * vector).sum() / len(vector) + epsilon) * weight


def feed_forward(vector, gate_up, down):
    half = len(gate_up) // 2
    gate, up = gate_up[:half] @ vector, gate_up[half:] @ vector
    return down @ (gate / (1 + torch.exp(-gate)) * up)


def block(hidden, parameters, prefix, num_heads, causal=True):
    """One lane's (T, D) through a post-norm block."""

    def part(name):
        return parameters[f"{prefix}.{name}.weight"]

    attended = self_attention(hidden, part("attention.qkv"), part("attention.output"), num_heads, causal)
    middle = [rms_norm(h + a, part("attention_norm")) for h, a in zip(hidden, attended, strict=True)]
    return torch.stack(
        [
            rms_norm(
                h + feed_forward(h, part("feed_forward.gate_up"), part("feed_forward.down")), part("feed_forward_norm")
            )
            for h in middle
        ]
    )


def hrm_segment(parameters, x, z_l, z_h, num_heads, update):
    """One segment with N = 1, T = 2 of one lane, gradient through the last step only: logits and both states."""

    def low(inputs):
        return block(inputs, parameters, "levels.0.0", num_heads)

    def high(inputs):
        return block(inputs, parameters, "levels.1.0", num_heads)

    with torch.no_grad():
        z_l = low(z_l + z_h + x)
    if update == "sequential":
        z_l = low(z_l + z_h + x)
        z_h = high(z_h + z_l)
    else:
        z_l, z_h = low(z_l + z_h + x), high(z_h + z_l + x)
    return z_h @ parameters["head.weight"].T, z_l, z_h


def feature(vector):
    """σ = ELU + 1."""
    return torch.where(vector > 0, vector + 1, torch.exp(vector))


class AssociativeMemory:
    """One head's memory as the list of what was written: (σ(k), v) pairs, weighed anew at every look-up."""

    def __init__(self):
        self.written = []

    def answer(self, query):
        weights = [feature(query) @ key for key, _ in self.written]
        if not weights:
            return torch.zeros_like(query)
        return sum(w * value for w, (_, value) in zip(weights, self.written, strict=True)) / (sum(weights) + 1e-6)

    def write(self, keys, values, rule):
        if rule == "delta":
            values = [value - self.answer(key) for key, value in zip(keys, values, strict=True)]
        self.written += [(feature(key).detach(), value.detach()) for key, value in zip(keys, values, strict=True)]


def infini_attention(hidden, memories, qkv, output, gate, rule):
    """One lane's window (T, D) with a memory a head, written afterwards."""
    num_heads = len(memories)
    queries, keys, values = projections(hidden, qkv, num_heads)
    mixed = []
    for head, memory in enumerate(memories):
        share = 1 / (1 + torch.exp(-gate[head]))
        local = attend(queries[head], keys[head], values[head], causal=True)
        answers = [memory.answer(query) for query in queries[head]]
        mixed.append([share * answer + (1 - share) * near for answer, near in zip(answers, local, strict=True)])
    for head, memory in enumerate(memories):
        memory.write(keys[head], values[head], rule)
    return torch.stack([output @ torch.cat([head[i] for head in mixed]) for i in range(len(hidden))])


def dispersion_loss(vectors, anchor_weight):
    """OACD of a list of vectors: −‖z − c‖_F / n + λ·‖c‖²."""
    centroid = sum(vectors) / len(vectors)
    squares = sum(((vector - centroid) ** 2).sum() for vector in vectors)
    return -torch.sqrt(squares) / len(vectors) + anchor_weight * (centroid**2).sum()
