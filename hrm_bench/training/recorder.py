"""What is written down while a cell trains: its history, its progress, and the same in W&B."""

import csv
import io
import math
import time
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.trainer.states import TrainerFn

from hrm_bench.cells.trackers import Mirror
from hrm_bench.charlm import CharLM
from hrm_bench.evidence import probes
from hrm_bench.records import store
from hrm_bench.records.schema import Epoch
from hrm_bench.training import progress

HISTORY_FILE = "history.csv"
SECONDS_BETWEEN_REPORTS = 1.0
DIVERGED = "training has diverged"


class Recorder(lightning.Callback):
    """Collects a row an epoch, and stops training with an error where a loss is not a number.

    Its state is in every snapshot, so that a cell that goes on has the history and the seconds of before. Of several
    ranks, all collect, and one writes: that which is given a mirror.
    """

    def __init__(self, folder: Path, mirror: Mirror | None, *, with_memory: bool) -> None:
        self.folder = folder
        self.with_memory = with_memory  # whether the model has a memory that is ever written
        self.mirror = mirror
        self.history: list[Epoch] = []
        self.train_seconds = 0.0
        self.seconds_before = 0.0  # of the whole cell, until the snapshot that it goes on from
        self._began = self._epoch_started = time.perf_counter()
        self._training = False
        self._reported = 0.0

    def state_dict(self) -> dict[str, Any]:
        now = time.perf_counter()
        return {
            "history": self.history,
            "train_seconds": self.train_seconds + (now - self._epoch_started if self._training else 0.0),
            "seconds": self.seconds_before + now - self._began,
            "run": None if self.mirror is None else self.mirror.run,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.history = list(state["history"])
        self.train_seconds = state["train_seconds"]
        self.seconds_before = state["seconds"]

    def on_train_start(self, trainer: lightning.Trainer, model: lightning.LightningModule) -> None:
        self._epoch_started, self._training = time.perf_counter(), True  # which may be in the middle of an epoch

    def on_train_epoch_start(self, trainer: lightning.Trainer, model: lightning.LightningModule) -> None:
        self._epoch_started, self._training = time.perf_counter(), True
        self._report(trainer, fraction_of_epoch=0.0)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, model: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if time.perf_counter() - self._reported > SECONDS_BETWEEN_REPORTS:
            loss = float(outputs["loss"])
            if trainer.world_size == 1 and not math.isfinite(loss):  # ranks find it together, after the epoch
                raise ArithmeticError(f"the training loss of epoch {trainer.current_epoch + 1} is {loss}: {DIVERGED}")
            self._report(trainer, fraction_of_epoch=(batch_idx + 1) / trainer.num_training_batches)

    def on_validation_start(self, trainer: lightning.Trainer, model: lightning.LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self.train_seconds += time.perf_counter() - self._epoch_started
            self._training = False

    def on_validation_end(self, trainer: lightning.Trainer, model: lightning.LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            return
        assert isinstance(model, CharLM)
        nll = float(model.nll.compute())
        epoch = trainer.current_epoch + 1
        if not math.isfinite(nll):
            raise ArithmeticError(f"the validation loss of epoch {epoch} is {nll}: {DIVERGED}")
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
        if self.mirror is not None:
            self.mirror.log(row)
        self._report(trainer, fraction_of_epoch=1.0)

    def write_history(self) -> None:
        """The history as a table beside the record."""
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
        progress.report(
            self.folder,
            epoch=trainer.current_epoch + 1,
            max_epochs=trainer.max_epochs,
            fraction=(trainer.current_epoch + fraction_of_epoch) / trainer.max_epochs,
            perplexity=self.history[-1]["validation_perplexity"] if self.history else None,
        )
