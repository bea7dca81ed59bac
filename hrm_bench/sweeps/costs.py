"""What planned cells would take, for a command that plans several sweeps in processes of their own."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from hrm_bench.cells import compiling
from hrm_bench.cells.cell import Cell
from hrm_bench.sweeps import display
from hrm_bench.table import count

COST_FILE = "HRM_BENCH_COST_FILE"  # environment variable: the file to which each plan appends a line


class Cost(NamedTuple):
    """The cells of plans, how many are to run, and how long these may take, one after another."""

    cells: int = 0
    to_run: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        start = f"In all: {count(self.cells, 'cell')}, {self.to_run:,} to run"
        return f"{start}, in about {max(1, round(self.seconds / 60)):,} min one after another" if self.to_run else start


def of(cells: Sequence[Cell], root: Path) -> Cost:
    """Estimate what cells take: by finished cells of their kind, else by a few batches, which are timed here."""
    left = [c for c in cells if c.config.force or display.cell_status(c.folder).status != "finished"]
    known = display.expected_seconds(left, root)
    timed = compiling.training_seconds([cell for cell in left if cell.folder.name not in known])
    return Cost(len(cells), len(left), sum(known.values()) + sum(timed))


def append(cells: Sequence[Cell], root: Path) -> None:
    """Append the cost of a plan to the file that the environment names, if it names one."""
    if path := os.environ.get(COST_FILE):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps(of(cells, root)) + "\n")


def total(path: Path) -> Cost:
    """Return the sum of the plans in a file."""
    costs = [Cost(*json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    return Cost(*map(sum, zip(*costs, strict=True))) if costs else Cost()
