"""How far a cell is, in a small file that whoever waits can read."""

from pathlib import Path

from hrm_bench.records import store

PROGRESS_FILE = "progress.json"


def report(folder: Path, *, epoch: int, max_epochs: int, fraction: float, perplexity: float | None) -> None:
    """Say how far a cell is: its epoch, the share of all its epochs, the last validation perplexity."""
    state = {"epoch": epoch, "max_epochs": max_epochs, "fraction": fraction, "perplexity": perplexity}
    store.write_json(folder / PROGRESS_FILE, state, lasting=False)


def clear(folder: Path) -> None:
    """The cell has ended: its record says the rest."""
    (folder / PROGRESS_FILE).unlink(missing_ok=True)
