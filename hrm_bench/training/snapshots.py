"""Checkpoints: the best epoch's weights, snapshots that an unfinished cell resumes from, and how both are read.

A snapshot is taken between two batches or after an epoch's validation: every few seconds, when a cell is asked to stop,
and when training ends. It holds the trainer's state (weights, optimizers, loops, early stopping, the best epoch) and
that of the model and the recorder. It holds no random state: a batch's random draws are a function of the seed, the
epoch and the batch.
"""

import time
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, ModelCheckpoint

from hrm_bench.charlm import CharLM
from hrm_bench.records import store
from hrm_bench.training.stopping import ANOTHER_RANK, Stopped, StopSignal

SNAPSHOT_FILE = "last.ckpt"  # to resume from; gone when the cell has finished
BEST_FILE = "best.ckpt"  # the weights of the best epoch so far


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoint files that are written whole or not at all, and read as tensors and plain values, never as code."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        with store.replacing(Path(path)) as file:
            torch.save(checkpoint, file)

    def load_checkpoint(self, path: str | Path, *_: Any, **__: Any) -> dict[str, Any]:
        return read(Path(path))


def read(path: Path) -> dict[str, Any]:
    """Read a file of tensors to the CPU. Raises what PyTorch raises if it is damaged or holds anything else."""
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return content


def load_best(model: CharLM, folder: Path) -> int:
    """Give the model the weights of a cell's best epoch; return that epoch, from 1."""
    best = read(folder / BEST_FILE)
    model.load_state_dict(best["state_dict"])
    return int(best["epoch"]) + 1


class BestEpoch(ModelCheckpoint):
    """Keeps the weights of the epoch with the lowest validation loss, also in a folder that was moved."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            folder,
            filename=BEST_FILE.removesuffix(".ckpt"),
            monitor="validation/nll",
            mode="min",
            save_weights_only=True,
            save_on_train_epoch_end=False,  # but at the validation's end, when averaged weights are still in the model
            enable_version_counter=False,
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state with today's paths: Lightning forgets the best epoch of a folder with another path."""
        state = {**state_dict, "dirpath": self.dirpath}
        if state["best_k_models"]:
            path = str(Path(str(self.dirpath), BEST_FILE))
            state["best_model_path"] = state["kth_best_model_path"] = path
            state["best_k_models"] = {path: state["best_model_score"]}
        super().load_state_dict(state)


class Snapshots(Checkpoint):
    """Takes a cell's snapshots; if the cell is asked to stop, takes one and stops it.

    There is none between the last batch of an epoch and the end of its validation: Lightning counts these as one step
    and would leave out the validation when it resumes.
    """

    def __init__(self, folder: Path, *, seconds: float, provenance: dict[str, str], stop: StopSignal) -> None:
        self.path = folder / SNAPSHOT_FILE
        self.seconds = seconds
        self.provenance = provenance  # a snapshot with any other is not resumed from
        self.stop = stop
        self._taken = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return dict(self.provenance)

    def on_train_start(self, trainer: lightning.Trainer, model: lightning.LightningModule) -> None:
        self.stop.listen_again()  # Lightning has set a handler of its own
        early = trainer.early_stopping_callback
        if isinstance(early, EarlyStopping) and early.stopped_epoch:  # patience had run out before the snapshot
            trainer.should_stop = True

    def on_train_batch_end(
        self, trainer: lightning.Trainer, model: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx + 1 < trainer.num_training_batches:
            self._take_if_due(trainer)

    def on_train_epoch_end(self, trainer: lightning.Trainer, model: lightning.LightningModule) -> None:
        is_last = trainer.should_stop or trainer.current_epoch + 1 == trainer.max_epochs
        self._take_if_due(trainer, is_due=is_last)  # what fails or is killed after training does not train again

    def _take_if_due(self, trainer: lightning.Trainer, *, is_due: bool = False) -> None:
        reason = self.stop.requested()
        due = is_due or reason is not None or time.monotonic() - self._taken >= self.seconds
        if trainer.world_size > 1:  # all ranks take part in it, or none
            due = trainer.strategy.reduce_boolean_decision(due, all=False)
        if not due:
            return
        trainer.save_checkpoint(self.path)
        self._taken = time.monotonic()
        if trainer.world_size > 1:
            is_any_asked = trainer.strategy.reduce_boolean_decision(reason is not None, all=False)
            reason = (reason or ANOTHER_RANK) if is_any_asked else None
        if reason is not None:
            raise Stopped(reason)


def find(folder: Path, provenance: dict[str, str], notes: list[str]) -> dict[str, Any] | None:
    """Return the recorder's state in a cell's snapshot, or None if the cell must begin again.

    A file that cannot be read is set aside, and a snapshot of another version of the code is not resumed from; a note
    is added to ``notes`` in either case.
    """
    callbacks = _read_or_set_aside(folder / SNAPSHOT_FILE, notes).get("callbacks", {})
    if "Recorder" not in callbacks:
        return None
    if callbacks["Snapshots"] != provenance:
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
    except Exception as error:  # PyTorch raises many kinds for a damaged file
        notes.append(store.set_aside(path, type(error).__name__))
        return {}
