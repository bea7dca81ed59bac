"""Distillation from counts: text that a Kneser-Ney model of the training characters writes, with what it expects next.

The teacher is the floor ``kneser_ney_7`` (``floors``): it has counted the training characters and nothing else. It
writes a text, character by character, each drawn from its distribution after the six before; a model that trains on
that text has the whole distribution for a target (arXiv 1503.02531), not the one character that was drawn. So what
counting knows of the characters that did not follow, its smoothing, reaches a model that has seen too few to learn it.

Shapes: S lanes, T characters, V vocabulary, U contexts that the text has.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from hrm_bench.data.corpora import Corpus
from hrm_bench.data.vocabulary import CHARACTERS
from hrm_bench.floors import ORDERS, Counts, Level, discounts

LENGTH = 300_000  # characters of the text: fifteen seconds
ORDER = ORDERS[-1]
SEED = 0  # one text for all cells

Distribution = NDArray[numpy.float64]  # (V,)
Following = dict[bytes, tuple[NDArray[numpy.intp], Distribution, float]]  # by context: characters, what (1) keeps, γ


class Teacher(NamedTuple):
    """The text, and what is expected after each of its characters."""

    text: Tensor  # (LENGTH,) uint8
    rows: Tensor  # (LENGTH,) int32: of the distribution of the next character
    distributions: Tensor  # (U, V)

    def lanes(self, num_lanes: int, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """So many parts of the text, at places drawn from PyTorch's generator: (S, T) characters, (S, T, V) targets."""
        starts = torch.randint(len(self.text) - length, (num_lanes, 1))
        places = starts + torch.arange(length)
        return self.text[places].long().to(device), self.distributions[self.rows[places].long()].to(device)


@functools.cache
def teacher(corpus: Corpus) -> Teacher:
    """The teacher of a corpus' training text, and its text; made once a process."""
    train = bytes(corpus.train.indices.tolist())
    expected = distributions(train)
    text, rows, known, found = bytearray(train[:ORDER]), list[int](), dict[bytes, int](), list[Distribution]()
    for draw in numpy.random.default_rng(SEED).random(LENGTH):
        context = bytes(text[1 - ORDER :])
        row = known.setdefault(context, len(found))
        if row == len(found):
            found.append(expected(context))
        rows.append(row)
        cumulative = found[row].cumsum()
        text.append(int(cumulative.searchsorted(draw * cumulative[-1], side="right")))
    return Teacher(
        text=torch.tensor(list(text[ORDER - 1 : -1]), dtype=torch.uint8),
        rows=torch.tensor(rows, dtype=torch.int32),
        distributions=torch.from_numpy(numpy.stack(found)).float(),
    )


def distributions(train: bytes) -> Callable[[bytes], Distribution]:
    """What the teacher of a text expects after a context, as ``floors`` has it: of all characters at once."""
    counts = Counts()
    for position in range(len(train)):
        counts.add(train, position)
    raw = {length: _following(level) for length, level in counts.raw.items()}
    continuation = {length: _following(level) for length, level in counts.continuation.items()}
    uniform = numpy.full(len(CHARACTERS), 1 / len(CHARACTERS))

    def expected(context: bytes) -> Distribution:
        """Of the character after the last ``ORDER`` − 1 of these, or after fewer."""
        context = context[max(0, len(context) - ORDER + 1) :]
        found = _mixed(uniform, continuation[1], b"")
        for length in range(2, len(context) + 1):
            found = _mixed(found, continuation[length], context[len(context) - length + 1 :])
        return _mixed(found, raw[len(context) + 1], context) if context else found

    return expected


def _following(level: Level) -> Following:
    """By context: the characters that follow it, what (1) keeps of their counts, and γ (2)."""
    discount = (0.0, *discounts(*level.num_with_count[1:5]))
    kept: dict[bytes, dict[int, float]] = {}
    for ngram, count in level.counts.items():
        kept.setdefault(ngram[:-1], {})[ngram[-1]] = count - discount[min(count, 3)]
    found: Following = {}
    for context, each in kept.items():
        total, *numbers = level.contexts[context]
        gamma = sum(d * number for d, number in zip(discount[1:], numbers, strict=True)) / total
        found[context] = numpy.array(list(each)), numpy.array(list(each.values())) / total, gamma
    return found


def _mixed(lower: Distribution, following: Following, context: bytes) -> Distribution:
    """(1): what was seen after a context, and the lower order for the rest."""
    if context not in following:
        return lower
    characters, kept, gamma = following[context]
    found = gamma * lower
    found[characters] += kept
    return found
