"""A cell's progress, in a small file that a reader outside the process can follow."""

import os
from pathlib import Path

from hrm_bench.records import store

PROGRESS_FILE = "progress.json"


def write(
    folder: Path,
    *,
    epoch: int,
    max_epochs: int,
    fraction: float,
    perplexity: float | None,
    phase: str = "training",
) -> None:
    """Write a cell's current epoch, the fraction of all its epochs that is done, and the last validation perplexity."""
    state = {"epoch": epoch, "max_epochs": max_epochs, "fraction": fraction, "perplexity": perplexity}
    store.write_json(folder / PROGRESS_FILE, {**state, "phase": phase, "process": os.getpid()}, lasting=False)


def enter(folder: Path, phase: str) -> None:
    """Write that a cell, whose epochs are done, is in a later phase."""
    state = store.read_json(folder / PROGRESS_FILE)
    if state is not None:
        store.write_json(folder / PROGRESS_FILE, {**state, "fraction": 1.0, "phase": phase}, lasting=False)


def clear(folder: Path) -> None:
    """Remove the file of a cell that has ended: its record has all of it."""
    (folder / PROGRESS_FILE).unlink(missing_ok=True)
