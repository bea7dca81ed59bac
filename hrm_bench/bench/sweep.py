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

from hrm_bench import records
from hrm_bench.bench import plain_training
from hrm_bench.bench.processes import python
from hrm_bench.bench.settings import Settings
from hrm_bench.bench.table import Row, compare
from hrm_bench.bench.timing import Place, at, no_collection, timed
from hrm_bench.charlm import Batch
from hrm_bench.config import compose
from hrm_bench.run import build, load_windows

MODEL = "hrm"
FIRST_SEED = 42
ROUNDS = 2
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
    rates: dict[str, list[float]] = {way: [] for way in (PLAIN, *launchers)}
    epochs: list[int] = []
    for turn in range(1 if settings.quick else ROUNDS):
        seeds = [FIRST_SEED + settings.seeds * turn + index for index in range(settings.seeds)]
        for launcher in launchers:
            seconds, took = _sweep(words, seeds, launcher)
            rates[launcher].append(3600 * settings.seeds / seconds)
        epochs += took.values()
        with at(Place("cpu", 1)), no_collection():
            seconds = timed(partial(_train_plainly, words, took))
        rates[PLAIN].append(3600 * settings.seeds / seconds)
    note = f"{settings.seeds} cells of {MODEL}, {min(epochs)} to {max(epochs)} epochs each"
    for launcher in launchers:
        yield compare(
            f"sweep of {source}", f"{os.cpu_count()} cores", rates, launcher, PLAIN, unit="cells/h", note=note
        )


def _sweep(words: list[str], seeds: list[int], launcher: str) -> tuple[float, dict[int, int]]:
    """Seconds of the whole command, and the epochs of each seed."""
    command = ["-m", "hrm_bench", "-m", *words, f"seed={','.join(map(str, seeds))}", f"launcher={launcher}"]
    with TemporaryDirectory() as folder:
        seconds, _ = python(*command, "hydra.sweep.dir=cells", cwd=Path(folder))
        found = records.read_all(Path(folder) / "cells")
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
