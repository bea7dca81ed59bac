"""Pointer chase: a table says which letter follows which, and each question asks for the letter k steps on.

    letters=4, steps=2:   bCaBdAcD 2a=1c=     a is followed by b, b by c, c by d, d by a; the answers are C and D

All letters are one cycle, drawn uniformly, and k is at most half of it, so that going backwards is no shorter. Every
sample asks once for each k from 1 to ``steps``, in random order. The answers are not in the text. Slices are k. The
exact levels are the perplexities of an answer for a reader who knows:

    chance      the letters
    no_memory   the letter of the question, which is not the answer
    steps_N     the next N letters from there on: the answers up to k = N, and for others what they are not
    optimum     the table
"""

import math
import string
from dataclasses import dataclass

import numpy

from hrm_bench.data.task import Sample, Task
from hrm_bench.data.text import Vocabulary
from hrm_bench.errors import ConfigFault
from hrm_bench.steps import UNSCORED

NUM_LETTERS = len(string.ascii_lowercase)
MOST_STEPS = 9
SYMBOLS = f"{string.ascii_lowercase}{string.ascii_uppercase}123456789=."
FIRST_DIGIT, QUESTION, FILLER = 2 * NUM_LETTERS, len(SYMBOLS) - 2, len(SYMBOLS) - 1  # indices
STEP_LEVELS = (1, 2, 4, 8)  # steps of the readers whose exact levels are given


class PointerChase(Task):
    """k steps through a cycle of letters."""

    vocabulary = Vocabulary(SYMBOLS, "letters, digits from 1, = and .")
    slice_name = "steps"

    @dataclass(frozen=True, kw_only=True)
    class Config(Task.Config):
        """The keys of pointer_chase."""

        letters: int
        steps: int  # the largest k

        def __post_init__(self) -> None:
            if self.letters > NUM_LETTERS:
                raise ConfigFault(
                    "letters",
                    f"data.task.letters={self.letters}: there are {NUM_LETTERS}; try data.task.letters={NUM_LETTERS}",
                )
            if self.steps > (most := min(MOST_STEPS, self.letters // 2)):
                fix = f"data.task.steps={most}" if most else "data.task.letters=16"
                raise ConfigFault(
                    "steps",
                    f"data.task.steps={self.steps}: at most {MOST_STEPS}, and at most half of "
                    f"data.task.letters={self.letters}, so that going backwards is no shorter; try {fix}",
                )

    @property
    def num_windows(self) -> int:
        return 1

    def faults(self) -> list[str]:
        needed = 2 * self.config.letters + 3 * self.config.steps
        if needed <= self.window:
            return []
        return [f"data.window={self.window}: pointer_chase needs {needed} characters; try data.window={needed}"]

    def draw(self, stream: numpy.random.Generator, *, is_training: bool) -> Sample:
        letters, steps = self.config.letters, self.config.steps
        cycle = stream.permutation(letters)
        place = numpy.empty_like(cycle)  # of each letter in the cycle
        place[cycle] = numpy.arange(letters)
        keys, starts, numbers = (
            stream.permutation(letters),
            stream.integers(letters, size=steps),
            stream.permutation(steps),
        )
        table = numpy.stack((keys, NUM_LETTERS + cycle[(place[keys] + 1) % letters]), axis=1)
        questions = numpy.stack((FIRST_DIGIT + numbers, starts, numpy.full(steps, QUESTION)), axis=1)
        text = numpy.concatenate((table.flatten(), questions.flatten()))
        tokens = numpy.full(self.window, FILLER, dtype=numpy.int16)
        targets, labels = numpy.full_like(tokens, UNSCORED), numpy.zeros_like(tokens)
        tokens[: len(text)] = text
        asked = slice(2 * letters + 2, len(text), 3)
        targets[asked] = NUM_LETTERS + cycle[(place[starts] + numbers + 1) % letters]
        labels[asked] = numbers + 1
        return Sample(tokens, targets, labels)

    def levels(self) -> dict[str, float]:
        letters, steps = self.config.letters, self.config.steps

        def after(known: int) -> float:
            """Return the perplexity per answer of a reader who knows so many letters after the question's."""
            return math.exp((steps - known) * math.log(letters - 1 - known) / steps)

        some = {f"steps_{number}": after(number) for number in STEP_LEVELS if number < steps}
        return {"chance": float(letters), "no_memory": after(0), **some, "optimum": 1.0}
