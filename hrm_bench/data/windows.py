"""Windows, samples and lanes: how a text becomes batches.

A window is ``window`` consecutive characters and the characters that follow them; a text of n characters has
(n − 1) // window windows. A sample is ``windows_per_sample`` consecutive windows. Training leaves out a last, shorter
sample; scoring keeps it. A batch's order through the code:

    TrainingBatches (which samples) → Shifted or Samples (their characters) → Loader → (B, T) tokens, (B, T) targets

A checkpoint stores how many batches of the epoch were given (``TrainingBatches.position``); a resumed epoch leaves out
that many (``skip``). Shapes: B lanes, T characters.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from hrm_bench.data.corpora import Corpus
from hrm_bench.data.task import Task
from hrm_bench.data.text import ByteVocabulary, Text
from hrm_bench.errors import UsageError
from hrm_bench.steps import num_scored

Batch = tuple[Tensor, Tensor]  # (B, T) characters and the characters that follow them


class Samples(Dataset[Batch]):
    """The samples of one split; a list of sample numbers gives their batch."""

    def __init__(self, name: str, text: Text, *, window: int, windows_per_sample: int) -> None:
        self.indices = text.indices  # (T,) uint8
        self.has_bytes = isinstance(text.vocabulary, ByteVocabulary)
        self.unknown_characters = text.unknown_characters
        self.unknown_fraction = text.unknown_characters / max(1, text.num_characters)
        self.window = window
        self.num_windows = (len(text) - 1) // window
        if self.num_windows < 1:
            raise UsageError(
                f"data.{name}_chars: the {name} text has {len(text):,} characters, too few for one window of "
                f"data.window={window} and a next character; give a longer text or data.window={max(1, len(text) - 1)}"
            )
        self.length = windows_per_sample * window  # characters of a whole sample
        self.num_whole = self.num_windows // windows_per_sample
        self.num_characters = self.num_windows * window  # number predicted; of bytes, if the vocabulary has bytes
        self.num_decoded = text.vocabulary.num_characters(text.indices[1 : self.num_characters + 1])
        self.num_words = text.num_words(1, self.num_characters + 1)
        self.targets, self.labels = text.targets, text.labels
        if self.targets is not None:
            self.num_decoded, self.num_words = int(num_scored(self.targets[None, : self.num_characters])), 0

    @property
    def symbols_per_character(self) -> float:
        """The bytes per character of the predicted text, if the vocabulary has bytes; else 1."""
        return self.num_characters / max(1, self.num_decoded) if self.targets is None else 1.0

    def __len__(self) -> int:
        return math.ceil(self.num_characters / self.length)

    def __getitem__(self, samples: list[int]) -> Batch:
        length = min(self.length, self.num_characters - samples[-1] * self.length)
        return self.read([index * self.length for index in samples], length)

    def read(self, first: list[int], length: int) -> Batch:
        """Read ``length`` characters from each of these positions of the text, and the characters that follow them."""
        starts = torch.tensor(first)
        positions = starts[:, None] + torch.arange(length)
        following = self.indices[positions + 1] if self.targets is None else self.targets[positions]
        return self.indices[positions].long(), following.long()


class TrainingBatches(Sampler[list[int]]):
    """The whole samples in batch k of an epoch: a function of (seed, epoch, k) alone.

    ``shuffled``: a new permutation per epoch. ``contiguous``: each lane reads one run of consecutive samples; the runs
    are as equal as possible, the longer ones first, so that lanes end only in the last batch. With ``num_offsets``
    above 1, each epoch draws the character at which its first sample begins.
    """

    def __init__(self, num_samples: int, *, batch_size: int, order: str, seed: int, num_offsets: int = 1) -> None:
        self.num_samples = num_samples
        self.num_offsets = num_offsets
        self.batch_size = batch_size
        self.order = order
        self.seed = seed
        self.epoch = 0
        self.position = 0  # number of batches of the epoch that were given
        self.skip = 0  # number of batches that the next iteration leaves out

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    @property
    def offset(self) -> int:
        """The character at which this epoch's first sample begins."""
        stream = torch.Generator().manual_seed((1 << 62) + (self.seed << 20) + self.epoch)  # not the order's stream
        return int(torch.randint(self.num_offsets, (), generator=stream))

    def __len__(self) -> int:
        return math.ceil(self.num_samples / self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        self.position, self.skip = self.skip, 0
        for batch in itertools.islice(self._batches(), self.position, None):
            self.position += 1
            yield batch

    def _batches(self) -> Iterator[list[int]]:
        if self.order == "shuffled":
            stream = torch.Generator().manual_seed((self.seed << 20) + self.epoch)
            for batch in torch.randperm(self.num_samples, generator=stream).split(self.batch_size):
                yield batch.tolist()
        else:
            lanes = torch.arange(self.num_samples).tensor_split(min(self.batch_size, self.num_samples))
            for step in range(len(lanes[0])):
                yield [int(lane[step]) for lane in lanes if step < len(lane)]


class EvaluationBatches(Sampler[list[int]]):
    """The samples in the text's order; a last, shorter sample is a batch of its own."""

    def __init__(self, samples: Samples, *, batch_size: int) -> None:
        self.samples = samples
        self.batch_size = batch_size

    def __len__(self) -> int:
        return math.ceil(self.samples.num_whole / self.batch_size) + (len(self.samples) > self.samples.num_whole)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in torch.arange(self.samples.num_whole).split(self.batch_size):
            if len(batch):
                yield batch.tolist()
        if len(self.samples) > self.samples.num_whole:
            yield [self.samples.num_whole]


class Windows(lightning.LightningDataModule):
    """The three splits of a corpus as loaders of batches."""

    def __init__(
        self,
        corpus: Corpus,
        *,
        window: int,
        windows_per_sample: int,
        order: str,
        batch_size: int,
        evaluation_batch_size: int,
        offsets: str,
        seed: int,
    ) -> None:
        super().__init__()
        self.train, self.validation, self.test = (
            Samples(name, text, window=window, windows_per_sample=windows_per_sample)
            for name, text in corpus.splits.items()
        )
        if not self.train.num_whole:
            raise UsageError(
                f"data.windows_per_sample={windows_per_sample}: the training text has only "
                f"{self.train.num_windows} windows; try data.windows_per_sample={self.train.num_windows}"
            )
        self.fresh = corpus.task if corpus.task is not None and corpus.task.config.fresh else None
        self.scored = (corpus.validation, corpus.test)
        num_offsets = window if offsets == "random" else 1
        num_samples = (len(corpus.train) - num_offsets) // self.train.length
        if not num_samples:
            raise UsageError(
                f"recipe.offsets=random: the training text has only {len(corpus.train):,} characters, too few for a "
                "sample at any offset; try recipe.offsets=fixed"
            )
        self.batches = TrainingBatches(
            num_samples, batch_size=batch_size, order=order, seed=seed, num_offsets=num_offsets
        )
        self.evaluation_batch_size = evaluation_batch_size

    @property
    def smallest_batch(self) -> int:
        """The number of samples in the smallest training batch."""
        return min(map(len, self.batches))

    @property
    def characters_per_epoch(self) -> int:
        """The number of characters that an epoch trains on."""
        return self.batches.num_samples * self.train.length

    def train_dataloader(self) -> DataLoader[Batch]:
        if self.fresh is not None:
            return TrainingLoader(Fresh(self.fresh, self.scored, self.train, self.batches), self.batches)
        return TrainingLoader(Shifted(self.train, self.batches), self.batches)

    def val_dataloader(self) -> DataLoader[Batch]:
        return self._evaluation(self.validation)

    def test_dataloader(self) -> DataLoader[Batch]:
        return self._evaluation(self.test)

    def _evaluation(self, samples: Samples) -> DataLoader[Batch]:
        return Loader(samples, EvaluationBatches(samples, batch_size=self.evaluation_batch_size))


class Loader(DataLoader[Batch]):
    """A loader whose sampler gives whole batches; it draws nothing from PyTorch's global random stream."""

    def __init__(self, samples: Dataset[Batch], batches: Sampler[list[int]]) -> None:
        # An iterator draws a seed for its workers, even if it has none: so give it a stream of its own.
        super().__init__(samples, sampler=batches, batch_size=None, generator=torch.Generator())


class Shifted(Dataset[Batch]):
    """The samples of a split, counted from the epoch's offset."""

    def __init__(self, samples: Samples, batches: TrainingBatches) -> None:
        self.samples = samples
        self.batches = batches

    def __getitem__(self, samples: list[int]) -> Batch:
        length = self.samples.length
        return self.samples.read([self.batches.offset + index * length for index in samples], length)


class Fresh(Dataset[Batch]):
    """The training samples of a task that draws others for each epoch: a function of its seed and the epoch alone."""

    def __init__(self, task: Task, scored: Sequence[Text], first: Samples, batches: TrainingBatches) -> None:
        self.task = task
        self.excluded = {digest for text in scored for digest in task.digests(text)}
        self.batches = batches
        self.epoch, self.samples = 0, first

    def __getitem__(self, samples: list[int]) -> Batch:
        if self.epoch != self.batches.epoch:
            self.epoch, window = self.batches.epoch, self.samples.window
            text = self.task.epoch(self.epoch, self.excluded)
            self.samples = Samples("train", text, window=window, windows_per_sample=self.samples.length // window)
        return self.samples[samples]


class TrainingLoader(Loader):
    """A loader that continues at the batch where a checkpoint was taken: Lightning calls its last two methods."""

    def __init__(self, samples: Dataset[Batch], batches: TrainingBatches) -> None:
        super().__init__(samples, batches)
        self.batches = batches

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.batches.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.batches.skip = state["position"]
