"""Predictors of a text's characters that remember what they have read of it: a cache of states, and counts.

- *cache* (Grave et al., arXiv 1612.04426): the characters that followed similar states h of the head earlier,

      p(w | h_t) = Σ_i 1[x_{i+1} = w] exp(s(h_t, h_i)) / Σ_i exp(s(h_t, h_i)),   i in the ``reach`` windows before t's
      dot: s = θ h_t·h_i / c        l2: s = −θ ‖h_t − h_i‖² / c

  An empty cache predicts as the model does. # differs from the paper: a window is cached after all of it is scored.
- *counts*: a Kneser-Ney model of order 7 that counts each character after it is scored.

Shapes: R reaches, T characters of a window or text, N cached characters, W windows, D width.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from hrm_bench.data.kneser_ney import Counts
from hrm_bench.data.text import Packed, packed
from hrm_bench.data.windows import Samples
from hrm_bench.evidence.reading import Reading

THETAS: dict[Literal["l2", "dot"], tuple[float, ...]] = {"l2": (5.0, 10.0, 20.0, 40.0), "dot": (10.0, 20.0, 40.0, 80.0)}


class Kernel(NamedTuple):
    """How similar two states are."""

    name: Literal["l2", "dot"]
    theta: float
    scale: float  # c

    def __str__(self) -> str:
        return f"{self.name} θ={self.theta:g}"

    def scores(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Return s of (T, D) queries and (N, D) keys: (T, N)."""
        similar = queries @ keys.T
        if self.name == "l2":
            similar = 2 * similar - queries.square().sum(dim=1)[:, None] - keys.square().sum(dim=1)
        return similar * (self.theta / self.scale)


def kernels(readings: Sequence[Reading]) -> list[Kernel]:
    """Return the kernels to choose from; c is the mean ‖h‖² of these texts."""
    scale = float(torch.cat([reading.states for reading in readings]).square().sum(dim=1).mean())
    return [Kernel(name, theta, scale) for name, thetas in THETAS.items() for theta in thetas]


def cached(text: Reading, source: Reading, kernel: Kernel, reaches: Sequence[int | None]) -> Tensor:
    """Return the probabilities that caches give a text's characters, one cache per reach in windows: (R, T).

    A window's cache has as many windows of ``source`` as come before it in the text, and of these the last ``reach``;
    None: all. ``source`` is the text itself, or another one. An empty cache gives the model's probability.
    """
    given = text.probabilities.repeat(len(reaches), 1)
    for start in range(text.window, len(text.targets), text.window):
        rows, end = slice(start, start + text.window), min(start, len(source.targets))
        scores = kernel.scores(text.states[rows], source.states[:end]).unflatten(1, (-1, text.window))  # (T, W, N / W)
        followed = (source.targets[:end] == text.targets[rows, None]).view_as(scores)
        peaks = scores.amax(dim=2)
        similar = (scores - peaks[..., None]).exp()
        both = torch.stack(
            [(similar * followed).sum(dim=2), similar.sum(dim=2)]
        )  # (2, T, W), each relative to its peak
        for number, reach in enumerate(reaches):
            last = slice(-(reach or end), None)
            shares = peaks[:, last].softmax(dim=1)
            character, all_characters = (both[:, :, last] * shares).sum(dim=2)
            given[number, rows] = character / all_characters
    return given


def counted(counts: Counts, samples: Samples) -> Tensor:
    """Return the probabilities of a text's characters, (T,), each after all that precede it were counted too.

    The counts are afterwards as they were.
    """
    text: Packed = packed(samples.indices[: samples.num_characters + 1])
    given = []
    for position in range(1, len(text)):
        counts.add(text, position - 1)
        given.append(counts.probabilities(text, position)[-1])
    for position in reversed(range(len(text) - 1)):
        counts.discard(text, position)
    return torch.tensor(given, dtype=torch.float64)
