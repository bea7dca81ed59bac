"""Distillation from an n-gram model: text that it generates, with its distributions as targets.

The n-gram model is the Kneser-Ney model of order 7, fitted to the training characters, that is also one of the
baselines. It generates a text, character by character, each drawn from its distribution after the six before. A model
that trains on that text has the whole distribution as a target (arXiv 1503.02531), not only the character that was
drawn. So it also learns what the n-gram model, by its smoothing, expects of characters that did not follow.

Shapes: B lanes, S appended lanes, T characters, V vocabulary, N characters of the generated text, U its contexts.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from hrm_bench.data.kneser_ney import ORDERS, Counts, Level, discounts
from hrm_bench.data.text import PRINTABLE_ASCII, Packed

LENGTH = 300_000  # characters of the generated text, which takes fifteen seconds
ORDER = ORDERS[-1]
SEED = 0  # all cells train on one text

Distribution = NDArray[numpy.float64]  # (V,)
Following = dict[Packed, tuple[NDArray[numpy.intp], Distribution, float]]  # by context: characters, what (1) keeps, γ


@dataclass(frozen=True, eq=False)
class GeneratedText:
    """A transform of training batches that appends lanes of generated text, with soft targets.

    Its text is drawn once. Copies of a model share it, since nothing changes it.
    """

    text: Tensor  # (N,) uint8
    rows: Tensor  # (N,) int32: of the distribution of the next character
    distributions: Tensor  # (U, V)
    ratio: float  # lanes to append for each lane of a batch

    def __call__(self, tokens: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return (B + S, T) characters and (B + S, T, V) distributions: one-hot for the lanes of the batch."""
        num_lanes = round(self.ratio * len(tokens))
        generated, expected = self.lanes(num_lanes, tokens.shape[1], tokens.device)
        certain = functional.one_hot(targets, self.distributions.shape[1]).to(expected.dtype)
        return torch.cat((tokens, generated)), torch.cat((certain, expected))

    def lanes(self, num_lanes: int, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Sample excerpts of the text by PyTorch's generator: (S, T) characters, (S, T, V) soft targets."""
        starts = torch.randint(len(self.text) - length, (num_lanes, 1))
        positions = starts + torch.arange(length)
        return self.text[positions].long().to(device), self.distributions[self.rows[positions].long()].to(device)

    def __deepcopy__(self, memo: object) -> "GeneratedText":
        return self


def generated_text(train: bytes, *, ratio: float, vocabulary_size: int = len(PRINTABLE_ASCII)) -> GeneratedText:
    """Return the transform that appends ``ratio`` lanes of text like the training characters for each lane."""
    return GeneratedText(*_generate(train, LENGTH, vocabulary_size), ratio)


@functools.lru_cache(maxsize=2)  # the cells of a sweep train on one text
def _generate(train: bytes, length: int, vocabulary_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``length`` characters, the row of each one's distribution of the next, and the distributions."""
    following = distributions(train, vocabulary_size)
    text, rows, row_of, table = bytearray(train[:ORDER]), list[int](), dict[bytes, int](), list[Distribution]()
    for draw in numpy.random.default_rng(SEED).random(length):
        context = bytes(text[1 - ORDER :])
        row = row_of.setdefault(context, len(table))
        if row == len(table):
            table.append(following(context))
        rows.append(row)
        cumulative = table[row].cumsum()
        text.append(int(cumulative.searchsorted(draw * cumulative[-1], side="right")))
    return (
        torch.tensor(list(text[ORDER - 1 : -1]), dtype=torch.uint8),
        torch.tensor(rows, dtype=torch.int32),
        torch.from_numpy(numpy.stack(table)).float(),
    )


def distributions(train: Packed, vocabulary_size: int = len(PRINTABLE_ASCII)) -> Callable[[Packed], Distribution]:
    """Return the n-gram model of a text as a function of the context, which gives all characters at once."""
    counts = Counts(vocabulary_size)
    for position in range(len(train)):
        counts.add(train, position)
    raw = {length: _following(level) for length, level in counts.raw.items()}
    continuation = {length: _following(level) for length, level in counts.continuation.items()}
    uniform = numpy.full(vocabulary_size, 1 / vocabulary_size)

    def following(context: Packed) -> Distribution:
        """Return the distribution of the character after the last ``ORDER`` − 1 of these, or after fewer."""
        context = context[max(0, len(context) - ORDER + 1) :]
        distribution = _mixed(uniform, continuation[1], train[:0])
        for length in range(2, len(context) + 1):
            distribution = _mixed(distribution, continuation[length], context[len(context) - length + 1 :])
        return _mixed(distribution, raw[len(context) + 1], context) if context else distribution

    return following


def _following(level: Level) -> Following:
    """Return, by context, the characters that follow it, what (1) keeps of their counts, and γ (2)."""
    discount = (0.0, *discounts(*level.num_with_count[1:5]))
    kept: dict[Packed, dict[int, float]] = {}
    for ngram, count in level.counts.items():
        last = ngram[-1] if isinstance(ngram, bytes) else ord(ngram[-1])
        kept.setdefault(ngram[:-1], {})[last] = count - discount[min(count, 3)]
    following: Following = {}
    for context, counts in kept.items():
        total, *numbers = level.contexts[context]
        gamma = sum(d * number for d, number in zip(discount[1:], numbers, strict=True)) / total
        following[context] = numpy.array(list(counts)), numpy.array(list(counts.values())) / total, gamma
    return following


def _mixed(lower: Distribution, following: Following, context: Packed) -> Distribution:
    """Return (1): what was seen after a context, and the lower order for the rest."""
    if context not in following:
        return lower
    characters, kept, gamma = following[context]
    distribution = gamma * lower
    distribution[characters] += kept
    return distribution
