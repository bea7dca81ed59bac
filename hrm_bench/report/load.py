"""The records of sweeps as two tidy tables, for notebooks: ``cells, history = hrm_bench.load("multirun")``."""

from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import pandas

from hrm_bench.errors import UsageError
from hrm_bench.records import store as records_
from hrm_bench.records.schema import Record
from hrm_bench.records.store import RECORD_FILE
from hrm_bench.report.settings import flat
from hrm_bench.report.variants import counting, left_plateau

SPLITS = ("validation", "test")
NAMES = ("experiment", "model", "memory", "seed", "identity")  # of a cell, in both tables
PLAIN = (
    "status",
    "reason",
    "causal",
    "parameters",
    "best_epoch",
    "state_size",
    "flops_per_character",
    "seconds",
    "train_seconds",
    "characters_per_second",
    "peak_memory",
    "wandb",
)


class Loaded(NamedTuple):
    """Both tables; what a record does not have is missing (NaN, None) in its row."""

    cells: pandas.DataFrame  # a row a cell
    history: pandas.DataFrame  # a row an epoch of a cell


def load(folder: str | PathLike[str] = "multirun") -> Loaded:
    """Every record in a sweep's folder, or in the folder above several sweeps. Raises UsageError where there is none.

    ``cells`` has a column a setting under its dotted key (``data.order``), each scored split's figures
    (``validation_perplexity``), its floors (``validation_unigram``, ``validation_ngram``: within the window), its
    memory use, and whether the cell sits on the unigram plateau. ``history`` has the epochs.
    """
    found = list(_records(Path(folder)))
    if not found:
        raise UsageError(f"{folder}: no records here; give the folder of a sweep, or the one above several")
    return Loaded(
        pandas.DataFrame([_cell(sweep, record) for sweep, record in found]),
        pandas.DataFrame(
            [_named(record) | row for _, record in found for row in record.get("history", [])],
            columns=None if any(record.get("history") for _, record in found) else [*NAMES, "epoch"],
        ),
    )


def _records(folder: Path) -> Iterator[tuple[str, Record]]:
    """The records of this sweep, or of those in this folder, each with its sweep's name."""
    for sweep in [folder, *sorted({path.parent.parent for path in folder.glob(f"*/*/{RECORD_FILE}")})]:
        for record in records_.read_all(sweep):
            yield sweep.resolve().name, record


def _named(record: Record) -> dict[str, Any]:
    return {
        "experiment": record["config"]["experiment"]["name"],
        "model": record["model"],
        "memory": record["memory"],
        "seed": record["seed"],
        "identity": record["identity"],
    }


def _cell(sweep: str, record: Record) -> dict[str, Any]:
    values: dict[str, Any] = dict(record)
    row = _named(record) | {"sweep": sweep} | {name: values.get(name) for name in PLAIN}
    for split in SPLITS:
        row |= {f"{split}_{name}": value for name, value in values.get(split, {}).items()}
    row |= _floors(record)
    for split, use in values.get("memory_use", {}).items():
        row |= {f"{split}_memory_{name}": value for name, value in use.items()}
    for moment, leak in values.get("leak", {}).items():
        row |= {f"leak_{moment}_{audit}": value for audit, value in leak.items()}
    row |= {f"version.{name}": version for name, version in values.get("versions", {}).items()}
    return row | {key: value for key, value in flat(record["config"]) if key != "seed"}


def _floors(record: Record) -> dict[str, Any]:
    """What counting reaches on the same text, and whether the cell got past how often each character occurs."""
    if "floors" not in record:
        return {}
    row: dict[str, Any] = {f"{split}_unigram": record["floors"][split]["unigram"]["full"] for split in SPLITS}
    if best := counting(record, "window"):
        row |= {"ngram": best[0], "validation_ngram": best[1], "test_ngram": best[2]}
    if "validation" in record:
        row["on_plateau"] = not left_plateau(record)
    return row
