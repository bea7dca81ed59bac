"""The notes of a cell in training: its history, its progress, and the same for a mirror such as W&B."""

import csv
import io
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import lightning
from lightning.pytorch.trainer.states import TrainerFn

from hrm_bench.charlm import CharLM
from hrm_bench.records import store
from hrm_bench.records.schema import Epoch
from hrm_bench.training import progress

HISTORY_FILE = "history.csv"
SECONDS_BETWEEN_REPORTS = 1.0
LARGEST_LOSS = 700.0  # nats per character; a perplexity above exp(700) is no number
DIVERGED = "training has diverged"
ONE = {"train": 1.0, "validation": 1.0}


class Mirror(Protocol):
    """A copy of a cell's history elsewhere."""

    @property
    def run(self) -> str | None:
        """The id that a later start of the cell continues with."""

    def log(self, row: Epoch) -> None:
        """Add an epoch."""


class Recorder(lightning.Callback):
    """Collects one row per epoch, and stops training with an error if a loss is not finite.

    Its state is part of every snapshot, so that a resumed cell has the history and the seconds of before. Of several
    ranks, all collect; only the one with a mirror writes.
    """

    def __init__(
        self,
        folder: Path,
        mirror: Mirror | None = None,
        *,
        has_memory: bool = False,
        symbols_per_character: Mapping[str, float] = ONE,
    ) -> None:
        self.folder = folder
        self.mirror = mirror
        self.has_memory = has_memory  # whether the model has a memory that is ever written
        self.symbols_per_character = symbols_per_character  # of training and validation text: what losses are scaled by
        self.history: list[Epoch] = []
        self.train_seconds = 0.0
        self.seconds_before = 0.0  # of the whole cell, up to the snapshot that it resumed from
        self._began = self._epoch_started = time.perf_counter()
        self._is_training = False
        self._reported = 0.0

    def state_dict(self) -> dict[str, Any]:
        now = time.perf_counter()
        return {
            "history": self.history,
            "train_seconds": self.train_seconds + (now - self._epoch_started if self._is_training else 0.0),
            "seconds": self.seconds_before + now - self._began,
            "run": None if self.mirror is None else self.mirror.run,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.history = list(state["history"])
        self.train_seconds = state["train_seconds"]
        self.seconds_before = state["seconds"]

    def on_train_start(self, trainer: lightning.Trainer, model: lightning.LightningModule) -> None:
        self._epoch_started, self._is_training = time.perf_counter(), True  # which may be in the middle of an epoch

    def on_train_epoch_start(self, trainer: lightning.Trainer, model: lightning.LightningModule) -> None:
        self._epoch_started, self._is_training = time.perf_counter(), True
        self._report(trainer, fraction_of_epoch=0.0)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, model: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if time.perf_counter() - self._reported > SECONDS_BETWEEN_REPORTS:
            if trainer.world_size == 1:  # several ranks must stop together, which they do after the epoch
                _check("training", float(outputs["loss"]), trainer.current_epoch + 1)
            self._report(trainer, fraction_of_epoch=(batch_idx + 1) / trainer.num_training_batches)

    def on_validation_start(self, trainer: lightning.Trainer, model: lightning.LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self.train_seconds += time.perf_counter() - self._epoch_started
            self._is_training = False

    def on_validation_end(self, trainer: lightning.Trainer, model: lightning.LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            return
        assert isinstance(model, CharLM)
        scale = self.symbols_per_character
        nll = float(model.nll.compute()) * scale["validation"]
        epoch = trainer.current_epoch + 1
        _check("validation", nll, epoch)
        row = Epoch(
            epoch=epoch,
            train_nll=float(model.train_nll.compute()) * scale["train"],
            validation_nll=nll,
            validation_perplexity=math.exp(nll),
            seconds=self.train_seconds,
        )
        if self.has_memory:
            row.update(model.memory_course())  # type: ignore[typeddict-item]
        self.history.append(row)
        if self.mirror is not None:
            self.mirror.log(row)
        self._report(trainer, fraction_of_epoch=1.0)

    def write_history(self) -> None:
        """Write the history as a table beside the record."""
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(self.history[0]))
        writer.writeheader()
        writer.writerows(self.history)
        with store.replacing(self.folder / HISTORY_FILE) as file:
            file.write(text.getvalue().encode())

    def _report(self, trainer: lightning.Trainer, *, fraction_of_epoch: float) -> None:
        self._reported = time.perf_counter()
        if self.mirror is None:
            return
        assert trainer.max_epochs is not None
        progress.write(
            self.folder,
            epoch=trainer.current_epoch + 1,
            max_epochs=trainer.max_epochs,
            fraction=(trainer.current_epoch + fraction_of_epoch) / trainer.max_epochs,
            perplexity=self.history[-1]["validation_perplexity"] if self.history else None,
        )


def _check(split: str, loss: float, epoch: int) -> None:
    """Raise ArithmeticError if a loss, in nats per character, is not a number or too large for a perplexity."""
    if not loss < LARGEST_LOSS:
        raise ArithmeticError(f"the {split} loss of epoch {epoch} is {loss}: {DIVERGED}")
