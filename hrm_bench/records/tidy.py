"""Records as tidy tables: one row per cell, and one row per epoch."""

from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import pandas

from hrm_bench.errors import UsageError
from hrm_bench.records import store
from hrm_bench.records.extras import sweep_name
from hrm_bench.records.facts import SPLITS, flat, is_on_plateau, ngram, numbers, unigram, unknown_fractions
from hrm_bench.records.schema import SCHEMA_VERSION, Record

NAMES = ("experiment", "model", "memory", "seed", "identity")  # columns of both tables of a notebook
PLAIN = (
    *("status", "reason", "causal", "parameters", "best_epoch", "state_size", "flops_per_character", "seconds"),
    *("train_seconds", "characters_per_second", "peak_memory", "wandb"),
)


class Loaded(NamedTuple):
    """Both tables of a notebook; what a record lacks is missing (NaN, None) in its row."""

    cells: pandas.DataFrame  # one row per cell
    history: pandas.DataFrame  # one row per epoch of a cell


def load(folder: str | PathLike[str] = "multirun") -> Loaded:
    """Read every record of a sweep, of an archive, or of the folder above several sweeps.

    ``cells`` has one column per config key (``data.order``), the figures of both splits (``validation_perplexity``),
    their n-gram baselines (``validation_unigram``, ``validation_ngram``: within the window), the fraction of characters
    outside the vocabulary (``validation_unknown``), the memory's use, and whether the cell is on the unigram plateau.
    Records of another version of the schema are left out. Raises UsageError if there is no record.
    """
    path = Path(folder)
    below = sorted({record.parent.parent for record in path.glob(f"*/*/{store.RECORD_FILE}")})
    tables = [cells(store.read_all(sweep), sweep_name(sweep)) for sweep in [path, *below]]
    tables = [table for table in tables if len(table)]
    if not tables:
        raise UsageError(f"{folder}: no records here; give the folder of a sweep, or the one above several")
    table = pandas.concat(tables, ignore_index=True)
    epochs = [
        {name: getattr(row, name) for name in NAMES} | epoch
        for row in table.itertuples()
        for epoch in row.record.get("history", [])
    ]
    history = pandas.DataFrame(epochs, columns=None if epochs else [*NAMES, "epoch"])
    return Loaded(table.drop(columns="record"), history)


def cells(records: Iterable[Record], sweep: str = "") -> pandas.DataFrame:
    """Return one row per record: its figures, its config by dotted key, and ``record`` itself."""
    return pandas.DataFrame([_cell(sweep, record) for record in records if record["schema_version"] == SCHEMA_VERSION])


def _cell(sweep: str, record: Record) -> dict[str, Any]:
    whole: dict[str, Any] = {"memory_use": {}, "leak": {}, "versions": {}, **record}
    row = {"experiment": whole["config"]["experiment"]["name"]} | {name: whole.get(name) for name in NAMES[1:]}
    row |= {"sweep": sweep} | {name: whole.get(name) for name in PLAIN}
    prefixed = {f"{split}_": whole.get(split, {}) for split in SPLITS}
    prefixed |= {f"{split}_memory_": use for split, use in whole["memory_use"].items()}
    row.update({f"{split}_unknown": fraction for split, fraction in unknown_fractions(record).items()})
    prefixed |= {f"leak_{moment}_": leak for moment, leak in whole["leak"].items()}
    for prefix, values in (prefixed | {"version.": whole["versions"]}).items():
        row.update({f"{prefix}{name}": value for name, value in values.items()})
    if whole.get("floors"):
        row.update({f"{split}_unigram": unigram(record, split) for split in SPLITS})
        row.update(zip(("ngram", "validation_ngram", "test_ngram"), ngram(record, "window") or (), strict=False))
        if whole.get("validation"):
            row["on_plateau"] = is_on_plateau(record)
    row.update({key: value for key, value in flat(whole["config"]) if key != "seed"})
    row.update({key: value for key, value in numbers(record).items() if key not in row})
    return row | {"record": record}
