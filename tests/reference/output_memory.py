"""An output memory as loops over windows, characters and symbols, in plain Python."""

import math
from collections.abc import Sequence

Vector = Sequence[float]


def softmax(scores: Vector) -> list[float]:
    largest = max(scores)
    raised = [math.exp(score - largest) for score in scores]
    return [one / sum(raised) for one in raised]


def dot(one: Vector, other: Vector) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def distributions(
    weights: Sequence[Vector],
    bias: Vector,
    gate: Vector,
    gate_bias: float,
    growth: float,
    states: Sequence[Sequence[Vector]],
    targets: Sequence[Sequence[int]],
    models: Sequence[Sequence[Vector]],
) -> list[Vector]:
    """Return the distribution of every character: states are windows of characters' vectors, models their softmaxes."""
    features, vocabulary = len(weights), len(models[0][0])
    matrix = [[0.0] * vocabulary for _ in range(features)]
    norm = [0.0] * features
    given: list[Vector] = []
    for number, (window, characters, own) in enumerate(zip(states, targets, models, strict=True)):
        seen = [softmax([dot(row, state) + b for row, b in zip(weights, bias, strict=True)]) for state in window]
        for state, phi, alone in zip(window, seen, own, strict=True):
            if not number:
                given.append(alone)
                continue
            share = 1 / (1 + math.exp(-(dot(gate, state) + gate_bias + growth * math.log(1 + number))))
            memory = [dot(phi, [row[symbol] for row in matrix]) / dot(phi, norm) for symbol in range(vocabulary)]
            given.append([(1 - share) * a + share * m for a, m in zip(alone, memory, strict=True)])
        for phi, symbol in zip(seen, characters, strict=True):
            for feature, value in enumerate(phi):
                matrix[feature][symbol] += value
                norm[feature] += value
    return given
