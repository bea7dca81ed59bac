"""What a command does around its cells, be they one or many: plan them before, and tell what came of them after."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig

from hrm_bench import config, records
from hrm_bench.progress import Watched


class Cell(NamedTuple):
    """One cell of a sweep, as planned: nothing of it has run yet."""

    cfg: DictConfig
    overrides: Sequence[str]
    folder: Path


def plan(cfg: DictConfig, overrides: Sequence[str], root: Path) -> Cell:
    """Check a cell whole, its text included, and name its folder. Raises UsageError."""
    from hrm_bench.run import cell_folder, load_windows

    config.check(cfg)
    load_windows(cfg)
    return Cell(cfg, overrides, cell_folder(cfg, root))


def is_finished(cell: Cell) -> bool:
    """Whether the cell's record says that it need not run."""
    return records.is_finished(records.read(cell.folder))


def watched(cell: Cell) -> Watched:
    """The cell as the display names it."""
    mode = config.memory_mode(cell.cfg)
    memory = [] if mode == "none" else [mode]
    return Watched(" ".join([cell.cfg.model.name, *memory, f"seed {cell.cfg.seed}"]), cell.folder)


def conclude(folders: list[Path], *, root: Path, report_run: bool = False) -> None:
    """Show the table of these cells and write their report; exit with status 1 if one of them is not finished.

    ``report_run`` has W&B keep the report too, where the cells have runs there.
    """
    from hrm_bench import tracking
    from hrm_bench.report import outputs, tables

    found = [(folder, records.read(folder)) for folder in folders]
    finished = [record for _, record in found if record is not None and records.is_finished(record)]
    if finished:
        tables.show(finished)
        for path in outputs.write_all([record for _, record in found if record is not None], root):
            print(f"Written: {os.path.relpath(path)}")
        if report_run:
            tracking.report(finished, root)
    offline = [r for r in finished if r["config"]["logger"]["mode"] == "online" and r["wandb"] == "offline"]
    if offline:
        told = f"W&B was not to be had online: {len(offline)} of {len(folders)} runs are kept offline, for `wandb sync`"
        print(told, file=sys.stderr)
    if len(folders) == 1:
        print(f"Cell: {os.path.relpath(folders[0])}")
    broken = [(folder, record) for folder, record in found if not records.is_finished(record)]
    for folder, record in broken:
        reason = f"{record['reason']} (log: {record['log']})" if record else "ended without a record"
        print(f"failed: {folder.name}: {reason}", file=sys.stderr)
    if broken:
        sys.exit(1)
