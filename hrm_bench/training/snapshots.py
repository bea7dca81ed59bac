"""Checkpoints that an unfinished cell goes on from, to the bit, and how files of tensors are written and read at all.

A snapshot is taken between two batches or after an epoch's validation, every so many seconds and where a cell is asked
to stop. It holds what a trainer has (weights, optimizers, loops, early stopping, the best epoch), what the model and
the recorder carry, and no random state: what a batch draws is a function of the seed, the epoch and the batch.
"""

import time
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping

from hrm_bench.records import store
from hrm_bench.training import stopping
from hrm_bench.training.stopping import Stopped

SNAPSHOT_FILE = "last.ckpt"  # to go on from; gone when the cell has finished
BEST_FILE = "best.ckpt"  # the weights of the best epoch so far


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a file whole or not at all; what it reads can hold tensors and plain values, and no code."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        with store.replacing(Path(path)) as file:
            torch.save(checkpoint, file)

    def load_checkpoint(self, path: str | Path, *_: Any, **__: Any) -> dict[str, Any]:
        return read(Path(path))


def read(path: Path) -> dict[str, Any]:
    """A file of tensors, on the CPU. Raises whatever PyTorch raises where it is damaged, or is more than tensors."""
    found: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return found


class Snapshots(Checkpoint):
    """Takes a cell's snapshots, and stops it, with one taken, where that is asked for.

    Between the last batch of an epoch and the end of its validation there is none: that is one step to Lightning, which
    would leave the validation out when it goes on.
    """

    def __init__(self, folder: Path, *, seconds: float, marks: dict[str, str]) -> None:
        self.path = folder / SNAPSHOT_FILE
        self.seconds = seconds
        self.marks = marks  # what a snapshot must have to be gone on from
        self._taken = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return dict(self.marks)

    def on_train_start(self, trainer: lightning.Trainer, model: lightning.LightningModule) -> None:
        stopping.listen_again()  # Lightning has put a handler of its own before ours
        early = trainer.early_stopping_callback
        if isinstance(early, EarlyStopping) and early.stopped_epoch:  # patience had run out before the snapshot
            trainer.should_stop = True

    def on_train_batch_end(
        self, trainer: lightning.Trainer, model: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx + 1 < trainer.num_training_batches:
            self._take_where_due(trainer)

    def on_train_epoch_end(self, trainer: lightning.Trainer, model: lightning.LightningModule) -> None:
        self._take_where_due(trainer)

    def _take_where_due(self, trainer: lightning.Trainer) -> None:
        asked = stopping.requested()
        due = asked is not None or time.monotonic() - self._taken >= self.seconds
        if trainer.world_size > 1:  # all ranks take part in it, or none
            due = trainer.strategy.reduce_boolean_decision(due, all=False)
        if not due:
            return
        trainer.save_checkpoint(self.path)
        self._taken = time.monotonic()
        if trainer.world_size > 1:
            any_asked = trainer.strategy.reduce_boolean_decision(asked is not None, all=False)
            asked = (asked or stopping.ANOTHER_RANK) if any_asked else None
        if asked is not None:
            raise Stopped(asked)


def find(folder: Path, marks: dict[str, str], notes: list[str]) -> dict[str, Any] | None:
    """What the recorder had when the cell's snapshot was taken, if there is one to go on from.

    A file that cannot be read is set aside, and a snapshot of another version of the code is not gone on from: the cell
    begins again, and ``notes`` say why.
    """
    callbacks = _read_or_set_aside(folder / SNAPSHOT_FILE, notes).get("callbacks", {})
    if "Recorder" not in callbacks:
        return None
    if callbacks["Snapshots"] != marks:
        notes.append(f"{SNAPSHOT_FILE} is of another version of the code: the cell began again")
        return None
    recorded: dict[str, Any] = callbacks["Recorder"]
    if recorded["history"] and not _read_or_set_aside(folder / BEST_FILE, notes):
        return None
    return recorded


def _read_or_set_aside(path: Path, notes: list[str]) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return read(path)
    except Exception as error:  # what PyTorch raises for a damaged file is of many kinds
        notes.append(store.set_aside(path, type(error).__name__))
        return {}
