"""Cells an hour of a sweep by the published protocol, in turn and side by side, against plain training in turn.

The sweeps are commands as a user types them, with all that they do before, between and after their cells: audits,
floors, records, W&B, report. The plain models are trained in this process for as many epochs as ours took, with a
validation after each and a test at the end, and nothing else.
"""

import importlib.util
import os
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from hrm_bench.bench import plain_training
from hrm_bench.bench.processes import python
from hrm_bench.bench.settings import Settings
from hrm_bench.bench.table import Row, compare
from hrm_bench.bench.timing import Place, at, no_collection, timed
from hrm_bench.charlm import Batch
from hrm_bench.config.compose import compose
from hrm_bench.records import store
from hrm_bench.training.build import build, load_windows

MODEL = "hrm"
FIRST_SEED = 42
LAUNCHERS = ("serial", "joblib")
PLAIN = "plain, in turn"


def measure(settings: Settings) -> Iterator[Row | str]:
    """Rows of cells an hour."""
    launchers = [*LAUNCHERS]
    if importlib.util.find_spec("joblib") is None:
        launchers.remove("joblib")
        yield "joblib is not installed; pip install 'hrm_bench[launchers]'"
    source = "wikitext2" if os.environ.get("HRM_BENCH_WIKITEXT") else "sample"
    words = [*settings.words(MODEL, source), *(["recipe.max_epochs=2"] if settings.quick else [])]
    seconds: dict[str, float] = {}
    for launcher in launchers:
        seconds[launcher], epochs = _sweep(words, range(FIRST_SEED, FIRST_SEED + settings.seeds), launcher)
    with at(Place("cpu", 1)), no_collection():
        seconds[PLAIN] = timed(partial(_train_plainly, words, epochs))
    rates = {way: [3600 * settings.seeds / each] for way, each in seconds.items()}
    took = sorted(epochs.values())
    note = f"measured once; {settings.seeds} cells of {MODEL}, {took[0]} to {took[-1]} epochs each"
    for launcher in launchers:
        yield compare(
            f"sweep of {source}", f"{os.cpu_count()} cores", rates, launcher, PLAIN, unit="cells/h", note=note
        )


def _sweep(words: list[str], seeds: Iterable[int], launcher: str) -> tuple[float, dict[int, int]]:
    """Seconds of the whole command, and the epochs of each seed."""
    command = ["-m", "hrm_bench", "-m", *words, f"seed={','.join(map(str, seeds))}", f"launcher={launcher}"]
    with TemporaryDirectory() as folder:
        seconds, _ = python(*command, "hydra.sweep.dir=cells", cwd=Path(folder))
        found = store.read_all(Path(folder) / "cells")
        return seconds, {record["seed"]: len(record["history"]) for record in found}


def _train_plainly(words: list[str], epochs: dict[int, int]) -> None:
    """Train a model a seed, for its number of epochs."""
    for seed, number in epochs.items():
        cfg = compose(*words, f"seed={seed}")
        data = load_windows(cfg)
        training = plain_training.counterpart(cfg, dict(build(cfg).named_parameters()))
        for epoch in range(number):
            data.batches.set_epoch(epoch)
            training.model.train()
            for wanted in data.batches:
                training.train(*data.train[wanted])
            _score(training, data.val_dataloader())
        _score(training, data.test_dataloader())


def _score(training: plain_training.PlainTraining, batches: Iterable[Batch]) -> None:
    training.model.eval()
    for batch in batches:
        training.score(*batch)
