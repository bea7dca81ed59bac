"""Tasks: generated samples of which only some characters are scored, with the levels that are known exactly.

A task is a class with a dataclass ``Config``, whose fields are the keys of ``data.task``. It draws one sample at a time
from a random stream. The splits of a corpus are such samples, one after the other. No sample of validation or test is
in another split. A model that forgets between samples, as ``memory=reset`` does, reads each sample on its own.

Shapes: N samples, T characters of a sample.
"""

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy
import torch
from numpy.typing import NDArray

from hrm_bench.data.text import Text, Vocabulary
from hrm_bench.errors import UsageError
from hrm_bench.steps import UNSCORED

SPLITS = {"validation": 1, "test": 2, "train": 3}  # number of each split's random stream, in the order of drawing
MOST_DRAWS = 100  # of a sample that is in another split already
Size = Annotated[int, 0]  # a whole number that may be 0
Hashes = set[bytes]


class Sample(NamedTuple):
    """One sample: T characters, what is asked at each of them, and which slice each question belongs to."""

    tokens: NDArray[numpy.int16]  # (T,) indices into the vocabulary
    targets: NDArray[numpy.int16]  # (T,) the answer after each character; UNSCORED where none is scored
    labels: NDArray[numpy.int16]  # (T,) the slice of each answer, such as a length; any number elsewhere


class Task(ABC):
    """A generator of samples. A subclass sets ``vocabulary`` and ``slice_name`` and draws a sample."""

    vocabulary: ClassVar[Vocabulary]
    slice_name: ClassVar[str] = "all"  # what the labels count

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The keys that every task has."""

        train_samples: int  # per epoch
        validation_samples: int
        test_samples: int
        fresh: bool  # whether each epoch trains on samples of its own
        loss: Literal["scored", "all"]  # the characters that are trained on
        seed: Size

    def __init__(self, config: Config, window: int) -> None:
        self.config: Any = config
        self.window = window

    @property
    @abstractmethod
    def num_windows(self) -> int:
        """The number of windows per sample."""

    @abstractmethod
    def draw(self, stream: numpy.random.Generator, *, is_training: bool) -> Sample:
        """Draw one sample."""

    @abstractmethod
    def levels(self) -> dict[str, float]:
        """Return the exact levels: the perplexity per answer, by what a reader knows."""

    def faults(self) -> list[str]:
        """Return one line per value that does not fit the window."""
        return []

    @property
    def length(self) -> int:
        """The number of characters per sample."""
        return self.num_windows * self.window

    def texts(self) -> dict[str, Text]:
        """Draw the three splits; of fresh samples, those of the first epoch."""
        used, texts = Hashes(), {}
        for name in SPLITS:
            texts[name] = self._text(name, 0, used)
        return texts

    def epoch(self, number: int, excluded: Hashes) -> Text:
        """Draw the training samples of an epoch, none of which is among those excluded."""
        return self._text("train", number, excluded)

    def _text(self, name: str, epoch: int, used: Hashes) -> Text:
        """Draw a split's samples. Those of validation and test are added to ``used``, and none in it is drawn again."""
        is_training = name == "train"
        stream = numpy.random.default_rng([self.config.seed, SPLITS[name], epoch])
        samples = list[Sample]()
        for _ in range(getattr(self.config, f"{name}_samples")):
            for _ in range(MOST_DRAWS):
                sample = self.draw(stream, is_training=is_training)
                if (digest := digest_of(sample.tokens)) not in used:
                    break
            else:
                raise UsageError(
                    f"data.task.{name}_samples: the task has too few different samples to keep the splits apart; make "
                    "its samples longer, or give fewer validation and test samples"
                )
            if not is_training:
                used.add(digest)
            samples.append(sample)
        tokens, targets, labels = (torch.from_numpy(numpy.stack(parts)) for parts in zip(*samples, strict=True))
        asked = (targets != UNSCORED).unflatten(1, (self.num_windows, self.window)).sum(dim=2)
        assert bool((asked == asked[0]).all()), "all samples ask as often in a window, so that lanes weigh alike"
        if is_training and self.config.loss == "all":
            targets[:, :-1] = torch.where(targets[:, :-1] == UNSCORED, tokens[:, 1:], targets[:, :-1])
        return Text(
            indices=torch.cat((tokens.flatten(), tokens[-1, -1:])).to(torch.uint8),
            blanks=torch.zeros(tokens.numel() + 1, dtype=torch.bool),
            unknown=Counter(),
            vocabulary=self.vocabulary,
            targets=targets.flatten(),
            labels=labels.flatten(),
        )

    def digests(self, text: Text) -> Hashes:
        """Return the hashes of a text's samples."""
        return {digest_of(tokens.numpy()) for tokens in text.indices[:-1].split(self.length)}


def digest_of(tokens: NDArray[Any]) -> bytes:
    """Return a hash of a sample's characters."""
    return hashlib.sha256(tokens.astype(numpy.int16).tobytes()).digest()[:16]
