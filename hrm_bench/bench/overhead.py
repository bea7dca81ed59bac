"""What Lightning, the records and W&B add to training: a real cell against a bare loop around the same module.

The two take turns an epoch each: after every epoch of the cell's Trainer its recorder runs one of the loop. The cell
has all that a cell has while it trains (loaders, metrics, snapshots, history, progress, an offline run in W&B).
"""

import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import lightning
from omegaconf import DictConfig

from hrm_bench.bench.settings import Settings, on
from hrm_bench.bench.subjects import bare, score, train_step
from hrm_bench.bench.table import Row, compare
from hrm_bench.bench.timing import WARM_UP, Place, at, no_collection, synchronise
from hrm_bench.cells import run, trackers
from hrm_bench.config.identity import memory_mode
from hrm_bench.training import fit
from hrm_bench.training.build import build, load_windows
from hrm_bench.training.recorder import Recorder

MODEL = "hrm"
CELL, LOOP = "cell", "bare loop"


def measure(settings: Settings) -> Iterator[Row | str]:
    """Rows of characters a second."""
    for place in settings.places:
        with at(place), no_collection():
            yield from _compare(settings, place)


def _compare(settings: Settings, place: Place) -> Iterator[Row]:
    epochs = WARM_UP + 2 * settings.few
    words = [f"trainer.accelerator={'gpu' if place.device == 'cuda' else 'cpu'}", "recipe.patience=1000"]
    words.append("logger.mode=offline")
    cfg = settings.cfg(MODEL, *words, f"recipe.max_epochs={epochs + 1}")
    with TemporaryDirectory() as folder:
        mirror = trackers.Mirror(cfg, name="bench", memory=memory_mode(cfg), folder=Path(folder))
        turns = Turns(cfg, place, Path(folder), mirror)
        with run._log_to(Path(folder) / run.LOG_FILE):
            fit.fit(cfg, Path(folder), turns, load_windows(cfg), marks={})
        mirror.finish({"status": "finished"})
    loss = turns.history[0]["validation_nll"]
    if abs(loss - turns.losses[0]) > 1e-5:
        raise ArithmeticError(f"the first validation loss of the cell, {loss}, is not the loop's, {turns.losses[0]}")
    trained = turns.data.train.num_whole * turns.data.train.length
    for what, seconds in turns.seconds.items():
        rates = {way: [trained / each for each in found[WARM_UP:]] for way, found in seconds.items()}
        yield compare(f"{MODEL}, {what}", place, rates, CELL, LOOP, unit="training characters/s")


class Turns(Recorder):
    """A recorder that takes the times of its cell's epochs, and runs one of the bare loop between two of them.

    An epoch goes from the start of its training to the start of the next one's, so that all that Lightning and the
    other callbacks do in between is in it.
    """

    def __init__(self, cfg: DictConfig, place: Place, folder: Path, mirror: trackers.Mirror) -> None:
        super().__init__(folder, mirror, with_memory=False)
        self.place = place
        self.model = bare(build(cfg).to(place.device))
        self.data = load_windows(cfg)
        self.seconds: dict[str, dict[str, list[float]]] = {
            what: {CELL: [], LOOP: []} for what in ("training", "training and validation")
        }
        self.losses: list[float] = []  # of the loop on the validation text, nats a character
        self._begun = 0.0

    def on_train_epoch_start(self, trainer: lightning.Trainer, model: lightning.LightningModule) -> None:
        if trainer.current_epoch:
            synchronise()
            self.seconds["training and validation"][CELL].append(time.perf_counter() - self._begun)
            self._loop(trainer.current_epoch - 1)
        synchronise()
        self._begun = time.perf_counter()
        super().on_train_epoch_start(trainer, model)

    def on_validation_start(self, trainer: lightning.Trainer, model: lightning.LightningModule) -> None:
        if trainer.current_epoch < trainer.max_epochs - 1:  # type: ignore[operator]
            synchronise()
            self.seconds["training"][CELL].append(time.perf_counter() - self._begun)
        super().on_validation_start(trainer, model)

    def _loop(self, epoch: int) -> None:
        """One epoch of training and one validation."""
        self.data.batches.set_epoch(epoch)
        begun = time.perf_counter()
        self.model.train()
        for wanted in self.data.batches:
            train_step(self.model, on(self.data.train[wanted], self.place))
        synchronise()
        trained = time.perf_counter()
        self.model.eval()
        total = 0.0
        for wanted in self.data.val_dataloader().sampler:
            batch = on(self.data.validation[wanted], self.place)
            total += float(score(self.model, batch)) * batch[0].numel()
        ended = time.perf_counter()
        self.losses.append(total / self.data.validation.num_characters)
        self.seconds["training"][LOOP].append(trained - begun)
        self.seconds["training and validation"][LOOP].append(ended - begun)
