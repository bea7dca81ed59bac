"""State tracking: a word of letters, each an element of a finite group, and the product of all so far.

    group=parity, ask=end:    ......0110=    1, 1, 0 and so on are the elements; the answer here is 0
    group=parity, ask=each:   0110......     the answers are 0, 1, 0, 0 and are not in the text

A word is a product from left to right. Its letters are drawn uniformly: the steps −1, 0 and +1 of Z5, and all elements
of the other groups. Training asks for words of up to ``length`` letters, validation too, and test for longer ones up to
``longest``. The scored splits leave out words that are shorter than ``shortest``: an n-gram model can know those by
heart. Slices are lengths, rounded up to a multiple of ``bin``. With ``windows`` above 1 a word spans several windows,
and a memory must carry the state. The exact levels are the perplexities of an answer for a reader who knows:

    chance       the elements
    no_memory    the length of the word
    last_6       also the last six characters, as many as an n-gram model reads
    own_window   the length and the letters in the answer's own window; if a sample has several windows
    optimum      the word
"""

import itertools
import math
from dataclasses import dataclass
from typing import Literal

import numpy
from numpy.typing import NDArray

from hrm_bench.data.task import Sample, Task
from hrm_bench.data.tasks.by_split import BySplit
from hrm_bench.data.text import Vocabulary
from hrm_bench.errors import ConfigFault
from hrm_bench.steps import UNSCORED

SYMBOLS = [symbol for code in range(0x180) if (symbol := chr(code)).isalpha() or "0" <= symbol <= "9"]  # of elements
NUM_READ = 6  # characters that an n-gram model of the highest order reads

Permutation = tuple[int, ...]


def _rotations(number: int) -> list[Permutation]:
    """Return the cyclic group of so many elements."""
    return [tuple((start + step) % number for start in range(number)) for step in range(number)]


def _permutations(number: int) -> list[Permutation]:
    """Return the symmetric group of so many points."""
    return list(itertools.permutations(range(number)))


GROUPS = {"parity": _rotations(2), "Z5": _rotations(5), "S3": _permutations(3), "S5": _permutations(5)}
LETTERS = {"Z5": [4, 0, 1]}  # elements that words are made of; of the other groups, all


class StateTracking(BySplit):
    """The product of a word in a finite group."""

    slice_name = "length"

    @dataclass(frozen=True, kw_only=True)
    class Config(Task.Config):
        """The keys of state_tracking."""

        group: Literal["parity", "Z5", "S3", "S5"]
        ask: Literal["end", "each"]  # after the word, or after each letter
        length: int  # letters of the longest word that is trained
        longest: int  # letters of the longest word of the test split
        shortest: int  # letters of the shortest word that is scored
        bin: int  # lengths per slice
        windows: int  # per sample

        def __post_init__(self) -> None:
            if self.longest < self.length:
                raise ConfigFault(
                    "longest",
                    f"data.task.longest={self.longest}: at least as many letters as data.task.length={self.length} "
                    f"are scored; try data.task.longest={self.length}",
                )
            if self.shortest > self.length:
                raise ConfigFault(
                    "shortest",
                    f"data.task.shortest={self.shortest}: validation scores words of up to "
                    f"data.task.length={self.length} letters; try data.task.shortest={self.length}",
                )
            if self.length % self.bin:
                raise ConfigFault(
                    "bin",
                    f"data.task.bin={self.bin}: a slice would have trained and longer words, since it does not divide "
                    f"data.task.length={self.length}; try data.task.bin={math.gcd(self.bin, self.length)}",
                )

    def __init__(self, config: Task.Config, window: int) -> None:
        super().__init__(config, window)
        elements = GROUPS[self.config.group]
        self.products = _products(elements)
        self.letters = numpy.array(LETTERS.get(self.config.group, range(len(elements))))
        symbols = "".join(SYMBOLS[: len(elements)])
        self.vocabulary = Vocabulary(f"{symbols}=.", f"{len(elements)} elements, = and .")  # type: ignore[misc]

    @property
    def num_windows(self) -> int:
        return int(self.config.windows)

    def faults(self) -> list[str]:
        needed = self.config.longest + (self.config.ask == "end")
        if needed <= self.length:
            return []
        window = math.ceil(needed / self.num_windows)
        return [f"data.window={self.window}: samples need {needed} characters; try data.window={window}"]

    def lengths(self, split: str) -> range:
        """Return the numbers of letters after which a split asks."""
        longest = self.config.longest if split == "test" else self.config.length
        return range(1 if split == "train" else self.config.shortest, longest + 1)

    def draw(self, stream: numpy.random.Generator, *, is_training: bool) -> Sample:
        lengths = numpy.array(self.lengths(self.split))
        is_at_end, question, filler = self.config.ask == "end", len(self.products), len(self.products) + 1
        length = int(stream.choice(lengths)) if is_at_end else lengths[-1]
        word = stream.choice(self.letters, length)
        states = list(itertools.accumulate(word, lambda state, letter: self.products[state, letter]))
        tokens = numpy.full(self.length, filler, dtype=numpy.int16)
        targets, labels = numpy.full_like(tokens, UNSCORED), numpy.zeros_like(tokens)
        if is_at_end:
            tokens[-1], tokens[-1 - length : -1], targets[-1] = question, word, states[-1]
            labels[-1] = self._label(length)
        else:
            tokens[:length], asked = word, lengths - 1
            targets[asked], labels[asked] = numpy.array(states)[asked], self._label(lengths)
        return Sample(tokens, targets, labels)

    def _label(self, lengths: NDArray[numpy.int64] | int) -> NDArray[numpy.int64] | int:
        """Return the slice of a length: the longest one in it."""
        return -(-lengths // self.config.bin) * int(self.config.bin)

    def levels_of(self, split: str) -> dict[str, float]:
        is_at_end, lengths = self.config.ask == "end", self.lengths(split)
        nats = self._entropies()
        last = [max(0, length - NUM_READ + is_at_end) for length in lengths]
        levels = {
            "chance": float(len(self.products)),
            "no_memory": _perplexity([nats[length] for length in lengths]),
            "last_6": _perplexity([nats[unseen] for unseen in last]),
        }
        if self.num_windows > 1:
            earlier = [
                max(0, length - self.window + 1) if is_at_end else (length - 1) // self.window * self.window
                for length in lengths
            ]
            levels["own_window"] = _perplexity([nats[unseen] for unseen in earlier])
        return levels | {"optimum": 1.0}

    def _entropies(self) -> list[float]:
        """Return the entropy of the product of n letters in nats, for n = 0, 1 … ``longest``."""
        probabilities, entropies = numpy.eye(len(self.products))[0], []
        for _ in range(self.config.longest + 1):
            some = probabilities[probabilities > 0]
            entropies.append(float(-(some * numpy.log(some)).sum()))
            following = numpy.zeros_like(probabilities)
            for letter in self.letters:
                following[self.products[:, letter]] += probabilities / len(self.letters)
            probabilities = following
        return entropies


def _products(elements: list[Permutation]) -> NDArray[numpy.int64]:
    """Return the (G, G) numbers of the products of a group's elements: first the row's, then the column's."""
    number = {element: place for place, element in enumerate(elements)}
    return numpy.array([[number[tuple(second[point] for point in first)] for second in elements] for first in elements])


def _perplexity(nats: list[float]) -> float:
    return math.exp(sum(nats) / len(nats))
