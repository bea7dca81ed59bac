"""What is written down while a cell trains: its history, its progress, and the same in W&B."""

import csv
import math
import time
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.trainer.states import TrainerFn

from hrm_bench import probes, progress
from hrm_bench.charlm import CharLM
from hrm_bench.records import Epoch
from hrm_bench.tracking import Mirror

HISTORY_FILE = "history.csv"
SECONDS_BETWEEN_REPORTS = 1.0


class Recorder(lightning.Callback):
    """Collects a row an epoch, and stops training with an error where the validation loss is not a number."""

    def __init__(self, folder: Path, mirror: Mirror, *, with_memory: bool) -> None:
        self.folder = folder
        self.with_memory = with_memory  # whether the model has a memory that is ever written
        self.mirror = mirror
        self.history: list[Epoch] = []
        self.train_seconds = 0.0
        self._epoch_started = 0.0
        self._reported = 0.0

    def on_train_epoch_start(self, trainer: lightning.Trainer, model: lightning.LightningModule) -> None:
        self._epoch_started = time.perf_counter()
        self._report(trainer, fraction_of_epoch=0.0)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, model: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if time.perf_counter() - self._reported > SECONDS_BETWEEN_REPORTS:
            self._report(trainer, fraction_of_epoch=(batch_idx + 1) / trainer.num_training_batches)

    def on_validation_start(self, trainer: lightning.Trainer, model: lightning.LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self.train_seconds += time.perf_counter() - self._epoch_started

    def on_validation_end(self, trainer: lightning.Trainer, model: lightning.LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            return
        assert isinstance(model, CharLM)
        nll = float(model.nll.compute())
        epoch = trainer.current_epoch + 1
        if not math.isfinite(nll):
            raise ArithmeticError(f"the validation loss of epoch {epoch} is {nll}: training has diverged")
        row = Epoch(
            epoch=epoch,
            train_nll=float(model.train_nll.compute()),
            validation_nll=nll,
            validation_perplexity=math.exp(nll),
            seconds=self.train_seconds,
        )
        if self.with_memory:
            row |= probes.memory_course(model)  # type: ignore[typeddict-item]
        self.history.append(row)
        self.mirror.log(row)
        self._report(trainer, fraction_of_epoch=1.0)

    def write_history(self) -> None:
        """The history as a table beside the record."""
        with (self.folder / HISTORY_FILE).open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(self.history[0]))
            writer.writeheader()
            writer.writerows(self.history)

    def _report(self, trainer: lightning.Trainer, *, fraction_of_epoch: float) -> None:
        self._reported = time.perf_counter()
        assert trainer.max_epochs is not None
        progress.report(
            self.folder,
            epoch=trainer.current_epoch + 1,
            max_epochs=trainer.max_epochs,
            fraction=(trainer.current_epoch + fraction_of_epoch) / trainer.max_epochs,
            perplexity=self.history[-1]["validation_perplexity"] if self.history else None,
        )
