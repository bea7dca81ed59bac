"""Windows, samples and lanes: how a text becomes batches.

A window is ``window`` consecutive characters and their next characters; a text of n characters has (n − 1) // window of
them. A sample is ``windows_per_sample`` consecutive windows; training leaves a last, shorter sample out, scoring does
not. Shapes: B lanes, T characters.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import lightning
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from hrm_bench.charlm import Batch
from hrm_bench.data.corpora import Corpus
from hrm_bench.data.text import Text
from hrm_bench.errors import UsageError


class Samples(Dataset[Batch]):
    """The samples of one split; indexed by a list, it gives their batch of (B, T) characters and next characters."""

    def __init__(self, name: str, text: Text, *, window: int, windows_per_sample: int) -> None:
        self.indices = text.indices  # (T,) uint8, the corpus' own
        self.unknown_characters = text.unknown_characters
        self.window = window
        self.num_windows = (len(text) - 1) // window
        if self.num_windows < 1:
            raise UsageError(
                f"data.{name}_chars: the {name} text has {len(text):,} characters, too few for one window of "
                f"data.window={window} and a next character; give a longer text or data.window={max(1, len(text) - 1)}"
            )
        self.length = windows_per_sample * window  # characters of a whole sample
        self.num_whole = self.num_windows // windows_per_sample
        self.num_characters = self.num_windows * window  # that are predicted
        self.num_words = text.num_words(1, self.num_characters + 1)

    def __len__(self) -> int:
        return -(-self.num_characters // self.length)

    def __getitem__(self, wanted: list[int]) -> Batch:
        length = min(self.length, self.num_characters - wanted[-1] * self.length)
        return self.read([index * self.length for index in wanted], length)

    def read(self, first: list[int], length: int) -> Batch:
        """So many characters from each of these places of the text, and their next characters."""
        starts = torch.tensor(first)
        positions = starts[:, None] + torch.arange(length)
        return self.indices[positions].long(), self.indices[positions + 1].long()


class TrainingBatches(Sampler[list[int]]):
    """Which whole samples are in batch k of an epoch: a function of (seed, epoch, k) alone.

    ``shuffled``: a fresh permutation an epoch. ``contiguous``: each lane is a stream, the text's samples dealt out in
    as many runs as there are lanes, as equal as can be; the longer runs come first, so lanes only drop off at the end.
    With ``num_offsets`` above 1 the samples of an epoch begin at one of so many characters, drawn for each epoch.
    ``position`` is how many batches of the epoch were given; ``skip``, how many the next iteration leaves out.
    """

    def __init__(self, num_samples: int, *, batch_size: int, order: str, seed: int, num_offsets: int = 1) -> None:
        self.num_samples = num_samples
        self.num_offsets = num_offsets
        self.batch_size = batch_size
        self.order = order
        self.seed = seed
        self.epoch = 0
        self.position = 0
        self.skip = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    @property
    def offset(self) -> int:
        """The character that this epoch's first sample begins at."""
        stream = torch.Generator().manual_seed((1 << 62) + (self.seed << 20) + self.epoch)  # not that of the order
        return int(torch.randint(self.num_offsets, (), generator=stream))

    def __len__(self) -> int:
        return -(-self.num_samples // self.batch_size)

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
    """Samples in the text's order; a last, shorter sample is a batch of its own."""

    def __init__(self, samples: Samples, *, batch_size: int) -> None:
        self.samples = samples
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-self.samples.num_whole // self.batch_size) + (len(self.samples) > self.samples.num_whole)

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
        """Samples in the training batch that has the fewest."""
        return min(map(len, self.batches))

    @property
    def characters_an_epoch(self) -> int:
        """That are trained on."""
        return self.batches.num_samples * self.train.length

    def train_dataloader(self) -> DataLoader[Batch]:
        return TrainingLoader(self.train, self.batches)

    def val_dataloader(self) -> DataLoader[Batch]:
        return self._evaluation(self.validation)

    def test_dataloader(self) -> DataLoader[Batch]:
        return self._evaluation(self.test)

    def _evaluation(self, samples: Samples) -> DataLoader[Batch]:
        return Loader(samples, EvaluationBatches(samples, batch_size=self.evaluation_batch_size))


class Loader(DataLoader[Batch]):
    """A loader whose sampler gives whole batches, which ``Samples`` gathers at once; it draws no random numbers."""

    def __init__(self, samples: Dataset[Batch], batches: Sampler[list[int]]) -> None:
        # An iterator draws a seed for its workers, though there are none: from a stream of its own, not the global one.
        super().__init__(samples, sampler=batches, batch_size=None, generator=torch.Generator())


class Shifted(Dataset[Batch]):
    """The samples of a split from the epoch's offset on."""

    def __init__(self, samples: Samples, batches: TrainingBatches) -> None:
        self.samples = samples
        self.batches = batches

    def __getitem__(self, wanted: list[int]) -> Batch:
        length = self.samples.length
        return self.samples.read([self.batches.offset + index * length for index in wanted], length)


class TrainingLoader(Loader):
    """A loader that a checkpoint can put back to the batch where it was: Lightning asks for these two methods."""

    def __init__(self, samples: Samples, batches: TrainingBatches) -> None:
        super().__init__(Shifted(samples, batches), batches)
        self.batches = batches

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.batches.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.batches.skip = state["position"]
