"""Text twice: a window of real text, ``gap`` windows that follow it in the text, and the first window once more.

    gap=1, window=10:   = Homarus    | gammarus =|  = Homarus

Scored are the characters of the second reading, from its second character on. A model without memory reads them as it
did the first time. Slices are the quarters of the window. A sample begins anywhere in its split's text, and has no
character that the vocabulary lacks. The exact levels are the perplexities of an answer for a reader who knows:

    chance    nothing
    bag       how often each character is in the window, and those before the answer, but not the order of the rest
    optimum   the window
"""

import math
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any, Literal

import numpy
from numpy.typing import NDArray

from hrm_bench.data import sources
from hrm_bench.data.task import Sample, Size, Task
from hrm_bench.data.tasks.by_split import BySplit
from hrm_bench.data.text import PRINTABLE_ASCII, code_points
from hrm_bench.errors import ConfigFault, UsageError
from hrm_bench.steps import UNSCORED

NUM_SLICES = 4


class TextTwice(BySplit):
    """Real text, one window of which comes twice."""

    vocabulary = PRINTABLE_ASCII
    slice_name = "quarter"

    @dataclass(frozen=True, kw_only=True)
    class Config(Task.Config):
        """The keys of text_twice."""

        text: Literal["wikitext2", "wikitext103", "sample", "enwik8", "text8", "text_file"]
        path: str | None = field(repr=False)  # of the text; where it lies is not in the fingerprint of the samples
        train_chars: int | None  # from the start of the training text; None: all
        gap: Size  # windows between the two readings

        def __post_init__(self) -> None:
            if self.path is None and self.text in ("text_file", *sources.PUBLISHED):
                raise ConfigFault(
                    "path", f"data.task.path=null: data.task.text={self.text} reads a file; give data.task.path=FILE"
                )
            if self.path is not None and self.text == "sample":
                raise ConfigFault(
                    "path",
                    f"data.task.path={self.path}: data.task.text=sample is the bundled text; for your own text add "
                    "data.task.text=text_file",
                )

    def __init__(self, config: Task.Config, window: int) -> None:
        super().__init__(config, window)
        self._texts = dict[str, NDArray[Any]]()  # the characters of each split
        self._starts = dict[str, NDArray[Any]]()  # where a sample may begin in each

    @property
    def num_windows(self) -> int:
        return int(self.config.gap) + 2

    def faults(self) -> list[str]:
        if self.window > 1:
            return []
        return ["data.window=1: no character of the second reading follows another; try data.window=64"]

    def draw(self, stream: numpy.random.Generator, *, is_training: bool) -> Sample:
        if self.split not in self._texts:
            self._read()
        text, starts = self._texts[self.split], self._starts[self.split]
        start = starts[stream.integers(len(starts))]
        once = text[start : start + self.length - self.window]
        tokens = numpy.concatenate((once, once[: self.window]))
        targets, labels = numpy.full_like(tokens, UNSCORED), numpy.zeros_like(tokens)
        asked = slice(-self.window, -1)
        targets[asked] = tokens[1 - self.window :]
        labels[asked] = 1 + numpy.arange(self.window - 1) * NUM_SLICES // (self.window - 1)
        return Sample(tokens, targets, labels)

    def levels_of(self, split: str) -> dict[str, float]:
        samples = self.texts()[split].indices[:-1].view(-1, self.length)[:, 1 - self.window :]
        bag = math.exp(sum(map(_log_orders, samples.tolist())) / samples.numel())
        return {"chance": float(len(self.vocabulary)), "bag": bag, "optimum": 1.0}

    def _read(self) -> None:
        """Read the three splits, and find where samples may begin."""
        config, span = self.config, self.length - self.window
        limits = {"train": config.train_chars}
        for split, text in zip(sources.SPLITS, self._splits(), strict=True):
            text = text[: limits.get(split)]
            indices, _, _ = self.vocabulary.read(text)
            is_unknown = (indices == 0) & (code_points(text) != ord(self.vocabulary.characters[0]))
            before = numpy.concatenate(([0], is_unknown.cumsum()))
            starts = (before[span:] == before[: max(0, len(before) - span)]).nonzero()[0]
            if not len(starts):
                raise UsageError(
                    f"data.task.text={config.text}: its {split} text has no {span} characters in a row that are all in "
                    "the vocabulary; give another text, or a smaller data.window or data.task.gap"
                )
            self._texts[split], self._starts[split] = indices.astype(numpy.int16), starts

    def _splits(self) -> list[str]:
        """Return the three splits of the text. Raises UsageError, in the keys of this task, if it cannot be read."""
        try:
            return ["".join(pieces) for pieces in self._pieces()]
        except UsageError as error:
            here = {"data.path": "data.task.path", "data=": "data.task.text="}
            lines = [reduce(lambda line, words: line.replace(*words), here.items(), line) for line in error.faults]
            raise UsageError(*lines) from error

    def _pieces(self) -> Iterable[Iterable[str]]:
        """Return the three splits of the text, each in consecutive pieces. Raises UsageError if it cannot be read."""
        name, given = self.config.text, self.config.path
        if given is None and name in sources.HUB_CONFIGS:
            given = os.environ.get("HRM_BENCH_WIKITEXT") or None  # as conf/data/wikitext2.yaml
        path = None if given is None else Path(given).expanduser()
        if name == "sample":
            return sources.sample()
        if name in sources.HUB_CONFIGS:
            return sources.wikitext(name, path)
        assert path is not None, "Config asks for it"
        return sources.published_file(name, path) if name in sources.PUBLISHED else sources.text_file(path)


def _log_orders(characters: list[int]) -> float:
    """Return the log of the number of different texts that have these characters, each as often."""
    repeated = sum(math.lgamma(number + 1) for number in Counter(characters).values())
    return math.lgamma(len(characters) + 1) - repeated
