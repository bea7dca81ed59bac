"""Recall: pairs of a key and a value are stated in one window, and each value is asked for ``gap`` windows later.

    gap=2, pairs=3, distractors=2:   AxKbQz....   |   TcBk......   |   KbQzAx....

Keys are A to Z and values a to z, both without repetition in a sample; distractors are other pairs, stated in the
windows between and never asked. Scored are the values of the last window. With ``gap=0`` the questions follow in the
window of the statement. The exact levels are the perplexities of an answer for a reader who uses the answers so far:

    no_memory   knows what was asked and answered, so that a value is not used twice
    bag         knows also which values were stated, distractors' included, but not by which key
    optimum     knows the pairs
"""

import math
import string
from dataclasses import dataclass

import numpy

from hrm_bench.data.task import Sample, Size, Task
from hrm_bench.data.text import Vocabulary
from hrm_bench.errors import ConfigFault
from hrm_bench.steps import UNSCORED

NUM_KEYS = len(string.ascii_uppercase)
FILLER = 2 * NUM_KEYS  # index of the full stop


class Recall(Task):
    """Key-value pairs, asked for ``gap`` windows later."""

    vocabulary = Vocabulary(string.ascii_uppercase + string.ascii_lowercase + ".", "letters and the full stop")
    slice_name = "question"

    @dataclass(frozen=True, kw_only=True)
    class Config(Task.Config):
        """The keys of recall."""

        pairs: int
        gap: Size  # windows from the statement to the questions; 0: one window has both
        distractors: Size  # pairs that are stated in the windows between

        def __post_init__(self) -> None:
            if self.pairs + self.distractors > NUM_KEYS:
                raise ConfigFault(
                    "pairs",
                    f"data.task.pairs={self.pairs}: with data.task.distractors={self.distractors} there are more than "
                    f"{NUM_KEYS} keys; try data.task.pairs={max(1, NUM_KEYS - self.distractors)}",
                )
            if self.distractors and self.gap < 2:
                raise ConfigFault(
                    "distractors",
                    f"data.task.distractors={self.distractors}: they are stated in the windows between, and "
                    f"data.task.gap={self.gap} has none; try data.task.gap=2",
                )

    @property
    def num_windows(self) -> int:
        return int(self.config.gap) + 1

    def faults(self) -> list[str]:
        pairs, between = self.config.pairs, math.ceil(self.config.distractors / max(1, self.config.gap - 1))
        needed = max(2 * pairs * (1 if self.config.gap else 2), 2 * between)
        if needed <= self.window:
            return []
        return [f"data.window={self.window}: recall needs {needed} characters per window; try data.window={needed}"]

    def draw(self, stream: numpy.random.Generator, *, is_training: bool) -> Sample:
        pairs, gap = self.config.pairs, self.config.gap
        keys, values = stream.permutation(NUM_KEYS), NUM_KEYS + stream.permutation(NUM_KEYS)
        stated = numpy.stack((keys, values), axis=1)
        tokens = numpy.full((self.num_windows, self.window), FILLER, dtype=numpy.int16)
        targets, labels = numpy.full_like(tokens, UNSCORED), numpy.zeros_like(tokens)
        tokens[0, : 2 * pairs] = stated[:pairs].flatten()
        distractors = stated[pairs : pairs + self.config.distractors]
        for window, some in enumerate(numpy.array_split(distractors, max(1, gap - 1)), start=1):
            if len(some):
                tokens[window, : 2 * len(some)] = some.flatten()
        start = 0 if gap else 2 * pairs
        tokens[-1, start : start + 2 * pairs] = stated[:pairs][stream.permutation(pairs)].flatten()
        asked = slice(start, start + 2 * pairs, 2)
        targets[-1, asked] = tokens[-1, start + 1 : start + 2 * pairs : 2]
        labels[-1, asked] = numpy.arange(1, pairs + 1)
        return Sample(tokens.flatten(), targets.flatten(), labels.flatten())

    def levels(self) -> dict[str, float]:
        pairs, stated = self.config.pairs, self.config.pairs + self.config.distractors

        def drawn_from(number: int) -> float:
            """Return the perplexity per answer of values that are drawn from so many, without repetition."""
            return math.exp(sum(math.log(number - used) for used in range(pairs)) / pairs)

        return {
            "chance": float(NUM_KEYS),
            "no_memory": drawn_from(NUM_KEYS),
            "bag": drawn_from(stated),
            "optimum": 1.0,
        }
