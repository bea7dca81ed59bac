"""How long one waits before anything happens: for help, for the first training step, for a sweep's next cell.

A training step is taken to begin when its cell first says how far it is, at the start of its first epoch.
"""

import contextlib
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from hrm_bench.bench.processes import python, until
from hrm_bench.bench.settings import Settings
from hrm_bench.bench.table import Row, compare
from hrm_bench.records.store import RECORD_FILE
from hrm_bench.training.progress import PROGRESS_FILE

IMPORT = "import torch, lightning"
MODEL = "hrm"


FIRST, FURTHER = "first step", "further cell's first step"


def measure(settings: Settings) -> Iterator[Row | str]:
    """Rows of seconds."""
    seconds: dict[str, list[float]] = {"help": [], FIRST: [], IMPORT: []}
    for _ in range(settings.few):
        with TemporaryDirectory() as folder:
            root = Path(folder)
            seconds[IMPORT].append(python("-c", IMPORT, cwd=root)[0])
            seconds["help"].append(python("-m", "hrm_bench", "--help", cwd=root)[0])
            words = ["-m", "hrm_bench", *settings.words(MODEL), "hydra.run.dir=cells"]
            seconds[FIRST].append(until(partial(_begun, root / "cells"), *words, cwd=root))
    seconds[FURTHER] = _further_cells(settings)
    for what in ("help", FIRST):
        yield compare(f"python -m hrm_bench, to its {what}", "a process", seconds, what, IMPORT, unit="s")
    note = "from the record of the cell before it"
    yield compare("a sweep of cells in turn", "a process", seconds, FURTHER, FIRST, unit="s", note=note)


def _begun(cells: Path) -> bool:
    return any(cells.glob(f"*/{PROGRESS_FILE}"))


def _further_cells(settings: Settings) -> list[float]:
    """Seconds from the record of each cell of a sweep to the first step of the next one."""
    seeds = range(1, settings.few + 2)
    with TemporaryDirectory() as folder:
        cells = Path(folder) / "cells"
        begun: dict[Path, float] = {}  # when each cell's first epoch did

        def all_begun() -> bool:
            for path in cells.glob(f"*/{PROGRESS_FILE}"):
                with contextlib.suppress(FileNotFoundError):  # its cell has just ended
                    begun.setdefault(path.parent, path.stat().st_mtime)
            return len(begun) == len(seeds)

        words = [*settings.words(MODEL), f"seed={','.join(map(str, seeds))}", "recipe.max_epochs=2"]
        until(all_begun, "-m", "hrm_bench", "-m", *words, "hydra.sweep.dir=cells", cwd=Path(folder))
        in_order = sorted(begun, key=begun.__getitem__)
        return [begun[further] - (before / RECORD_FILE).stat().st_mtime for before, further in pairwise(in_order)]
