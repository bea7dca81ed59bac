"""Adaptation while reading, one character and one symbol after another.

Shapes: T characters of a window, V vocabulary.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .training import DeepSupervision, task_loss

Vectors = Sequence[Sequence[float]]


def similarity(name: str, theta: float, scale: float, query: Sequence[float], key: Sequence[float]) -> float:
    """Return s(query, key) of two states."""
    if name == "dot":
        return theta * sum(a * b for a, b in zip(query, key, strict=True)) / scale
    return -theta * sum((a - b) ** 2 for a, b in zip(query, key, strict=True)) / scale


def cache(
    kernel: tuple[str, float, float],
    queries: Vectors,
    keys: Vectors,
    followers: Sequence[int],
    *,
    window: int,
    reach: int | None,
    vocabulary_size: int,
) -> list[list[float] | None]:
    """Return the distribution of a cache at each place, or None where it is empty.

    Args:
        kernel: name, θ and c.
        queries: the states of the text.
        keys: the states in the cache, of the same text or of another one.
        followers: the symbol that followed each of them.
        window: characters per window.
        reach: windows that the cache holds; None: all.
        vocabulary_size: number of symbols.
    """
    distributions = list[list[float] | None]()
    for place, query in enumerate(queries):
        begin = place // window * window  # of its window
        given = [0.0] * vocabulary_size
        for index, (key, follower) in enumerate(zip(keys, followers, strict=True)):
            if index < begin and (reach is None or index >= min(begin, len(keys)) - reach * window):
                given[follower] += math.exp(similarity(*kernel, query, key))
        total = sum(given)
        distributions.append([value / total for value in given] if total else None)
    return distributions


def dynamic(
    naive: DeepSupervision, text: Tensor, *, window: int, windows_per_sample: int | None, optimizer: str, rate: float
) -> list[Tensor]:
    """Return the distributions, (T, V), of each window of a text whose windows are trained on after they were scored.

    ``windows_per_sample`` says after how many windows the memory is emptied; None: never.
    """
    model, moments = naive.model, dict[str, tuple[Tensor, Tensor]]()
    model.training = False
    distributions, memory = list[Tensor](), model.initial_memory(1)
    for number in range((len(text) - 1) // window):
        if windows_per_sample is not None and number % windows_per_sample == 0:
            memory = model.initial_memory(1)
        start = number * window
        tokens, targets = text[None, start : start + window], text[None, start + 1 : start + window + 1]
        segments = [logits for logits, _ in naive.segments(tokens, memory)]
        distributions.append(torch.softmax(segments[-1][0].detach(), dim=-1))
        loss = sum((task_loss(logits, targets) for logits in segments), torch.zeros(()))
        _step(model.parameters, loss, moments, optimizer=optimizer, rate=rate, number=number + 1)
        for part in memory:
            part.detach()
    return distributions


def _step(
    parameters: Mapping[str, Tensor],
    loss: Tensor,
    moments: dict[str, tuple[Tensor, Tensor]],
    *,
    optimizer: str,
    rate: float,
    number: int,
) -> None:
    """Take one clipped step of plain SGD, or of Adam with its own β and ε."""
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    gradients = {name: value for name, value in zip(parameters, found, strict=True) if value is not None}
    norm = math.sqrt(sum(float((gradient**2).sum()) for gradient in gradients.values()))
    with torch.no_grad():
        for name, gradient in gradients.items():
            gradient = gradient * min(1.0, 1.0 / (norm + 1e-6))
            if optimizer == "sgd":
                parameters[name] -= rate * gradient
                continue
            mean, square = moments.get(name, (torch.zeros_like(gradient), torch.zeros_like(gradient)))
            mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
            moments[name] = (mean, square)
            corrected = (square / (1 - 0.999**number)).sqrt()
            parameters[name] -= rate * mean / (1 - 0.9**number) / (corrected + 1e-8)
