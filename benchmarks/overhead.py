"""The cost of Lightning, the records and W&B: a real cell against a bare loop around the same module.

Both take turns of one epoch: whenever the cell logs an epoch, the loop runs one. The cell does all that a cell does
while it trains: loaders, metrics, snapshots, history, progress, and an offline run in W&B.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from omegaconf import DictConfig

from benchmarks.implementations import score
from benchmarks.settings import Settings, on
from benchmarks.table import Row, compare
from benchmarks.timing import WARM_UP, Device, synchronise, use
from hrm_bench.cells.cell import Cell
from hrm_bench.cells.trackers import Mirror
from hrm_bench.records.schema import Epoch
from hrm_bench.training.bare import without_trainer
from hrm_bench.training.build import build, load_windows
from hrm_bench.training.fit import fit
from hrm_bench.training.recorder import Recorder

QUESTION = "what do Lightning, records and W&B cost, compared with a bare loop around the same module?"
MODEL = "hrm"


def measure(settings: Settings) -> Iterator[Row | str]:
    """Yield one row of characters per second for each device."""
    for device in settings.devices:
        with use(device):
            yield _compare(settings, device)


def _compare(settings: Settings, device: Device) -> Row:
    epochs = WARM_UP + 2 * settings.few_rounds
    words = [f"trainer.accelerator={'gpu' if device.type == 'cuda' else 'cpu'}", "recipe.patience=null"]
    config = settings.config(MODEL, *words, "logger.mode=offline", f"recipe.max_epochs={epochs}")
    loop, losses = bare_loop(config, device), []
    with TemporaryDirectory() as folder:
        cell = Cell.of(config, Path(folder))
        cell.folder.mkdir()
        mirror = Mirror(cell)
        turns = AlternatingMirror(mirror, lambda: losses.append(loop()))
        recorder = Recorder(cell.folder, turns)
        fit(config, cell.folder, recorder, load_windows(config))
        mirror.finish({"status": "finished"})
    loss = recorder.history[0]["validation_nll"]
    if abs(loss - losses[0]) > 1e-5:
        raise ArithmeticError(f"the first validation loss of the cell, {loss}, is not the loop's, {losses[0]}")
    data = load_windows(config)
    characters = data.train.num_whole * data.train.length
    rates = {name: [characters / seconds for seconds in values[WARM_UP:]] for name, values in turns.seconds.items()}
    note = "training and validation"
    return compare(f"{MODEL}, one epoch", device, rates, "cell", "bare loop", unit="training characters/s", note=note)


class AlternatingMirror:
    """A mirror that passes each epoch on, gives the bare loop its turn, and times both.

    A turn of the cell lasts from the end of the loop's turn to the logged epoch, so it contains all that happens there.
    """

    def __init__(self, mirror: Mirror, other: Callable[[], object]) -> None:
        self.mirror, self.other = mirror, other
        self.run = mirror.run
        self.seconds: dict[str, list[float]] = {"cell": [], "bare loop": []}
        self._started = time.perf_counter()

    def log(self, row: Epoch) -> None:
        """Log one epoch of the cell, then run the other."""
        self.mirror.log(row)
        self._end_turn("cell")
        with torch.enable_grad():  # the cell is in its validation here
            self.other()
        self._end_turn("bare loop")

    def _end_turn(self, name: str) -> None:
        synchronise()
        now = time.perf_counter()
        self.seconds[name].append(now - self._started)
        self._started = now


def bare_loop(config: DictConfig, device: Device) -> Callable[[], float]:
    """Return a function that trains one more epoch and returns the validation loss, nats per character."""
    model, data = build(config).to(device.type), load_windows(config)
    train = without_trainer(model)
    epochs = iter(range(config.recipe.max_epochs))

    def epoch() -> float:
        data.batches.set_epoch(next(epochs))
        model.train()
        for indices in data.batches:
            train(on(device, data.train[indices]))
        model.eval()
        total = 0.0
        for indices in data.val_dataloader().sampler:
            batch = on(device, data.validation[indices])
            total += float(score(model, batch)) * batch[0].numel()
        return total / data.validation.num_characters

    return epoch
