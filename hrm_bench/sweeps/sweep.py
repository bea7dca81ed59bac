"""What a command does around its cells, be they one or many: plan them, have them run, and tell what came of them."""

import functools
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import filelock
from omegaconf import DictConfig

from hrm_bench.cells.provenance import code_version
from hrm_bench.config import compose
from hrm_bench.config.identity import memory_mode
from hrm_bench.errors import UsageError
from hrm_bench.records import store
from hrm_bench.records.schema import SCHEMA_VERSION, Record
from hrm_bench.sweeps.display import Display, Watched
from hrm_bench.training import stopping

MANIFEST_FILE = "sweep.json"
SECONDS_BETWEEN_LOOKS = 0.5  # at cells that another sweep has at work
OTHER_CODE = "were finished by another version of the code and are kept as they are; force=true runs them again"
OTHER_SCHEMA = "have a record of another version of hrm_bench, which this one cannot read: they run again"


class Cell(NamedTuple):
    """One cell of a sweep, as planned: nothing of it has run yet."""

    cfg: DictConfig
    overrides: Sequence[str]
    folder: Path

    @property
    def label(self) -> str:
        """The cell as a reader tells it from others: model, memory, seed."""
        mode = memory_mode(self.cfg)
        return " ".join([self.cfg.model.name, *([] if mode == "none" else [mode]), f"seed {self.cfg.seed}"])


Launch = Callable[[Sequence[Cell]], Sequence[Record]]  # runs cells, wherever; raises where one took its process along
Outcomes = dict[Path, Record]  # by the cell's folder


class Result(NamedTuple):
    """What became of a command's cells."""

    cells: Sequence[Cell]
    outcomes: Outcomes
    request: stopping.Request  # to stop: whether there was one, and by whom
    has_run: bool  # whether there was anything to do


def plan(cfg: DictConfig, overrides: Sequence[str], root: Path) -> Cell:
    """Check a cell whole, its text and its model included, and name its folder. Raises UsageError."""
    from hrm_bench.cells.run import cell_folder
    from hrm_bench.training.build import build, load_windows

    compose.check(cfg)
    _check_lengths(cfg)
    load_windows(cfg)
    build(cfg)
    return Cell(cfg, overrides, cell_folder(cfg, root))


def _check_lengths(cfg: DictConfig) -> None:
    """Raise UsageError where a split of the text has fewer characters than are asked for."""
    from hrm_bench.data import corpora

    asked = {name: (cfg.data[f"{name}_chars"], len(text)) for name, text in corpora.load(cfg.data).splits.items()}
    faults = [
        f"data.{name}_chars={limit}: the {name} text has {length:,} characters; try data.{name}_chars=null, for all"
        for name, (limit, length) in asked.items()
        if limit is not None and length < limit
    ]
    if faults:
        raise UsageError(*faults)


def execute(cells: Sequence[Cell], root: Path, launch: Launch) -> Result:
    """Run the cells that are not finished, each once, and show how far they are.

    A cell that another sweep has at work is passed over, and looked at again. Where one takes its process along, those
    that were at work beside it go on, each by itself, so that only the one that does it again has failed.
    """
    outcomes, pending = _standing(cells)
    has_run = bool(pending)
    _write_manifest(cells, root)
    watched = [Watched(cell.label, cell.folder) for cell in pending]
    with stopping.listening(root) as request, Display(watched, num_skipped=len(cells) - len(pending)):
        try:
            while pending and stopping.requested() is None:
                outcomes |= _launched(pending, launch)
                pending = [cell for cell in pending if outcomes[cell.folder]["status"] == "busy"]
                _wait_for_one(pending)
        except stopping.Stopped:
            pass  # the request says so
    for cell in cells:
        if outcomes.get(cell.folder, {"status": "busy"})["status"] == "busy":
            outcomes[cell.folder] = store.read_or_set_aside(cell.folder)[0] or Record(status="waiting")
    return Result(cells, outcomes, request, has_run)


def _standing(cells: Sequence[Cell]) -> tuple[Outcomes, list[Cell]]:
    """The cells that are finished, and those that are to run, without the records of how they failed before."""
    from hrm_bench.cells.run import clear, locked

    finished, pending, told = Outcomes(), list[Cell](), dict[str, int]()
    for cell in cells:
        record, notes = store.read_or_set_aside(cell.folder)
        for note in notes:
            print(f"{cell.folder.name}: {note}", file=sys.stderr)
        if record is not None and store.is_finished(record) and not cell.cfg.force:
            finished[cell.folder] = record
            if record["code"] != code_version(cell.cfg):
                told[OTHER_CODE] = told.get(OTHER_CODE, 0) + 1
            continue
        if record is not None and record["schema_version"] != SCHEMA_VERSION:
            told[OTHER_SCHEMA] = told.get(OTHER_SCHEMA, 0) + 1
        pending.append(cell)
        if cell.folder.exists():
            with locked(cell.folder) as is_ours:
                if is_ours and cell.cfg.force:
                    clear(cell.folder)
                elif is_ours:
                    (cell.folder / store.RECORD_FILE).unlink(missing_ok=True)
    for what, number in told.items():
        tell_once(f"{number} of {len(cells)} cells {what}")
    return finished, pending


@functools.cache
def tell_once(text: str) -> None:
    """Of many cells, or of a search, which has many rounds of them, once."""
    print(text, file=sys.stderr)


def _launched(cells: Sequence[Cell], launch: Launch) -> Outcomes:
    from hrm_bench.cells.run import fail

    try:
        return dict(zip((cell.folder for cell in cells), launch(cells), strict=True))
    except Exception as error:  # of the launcher: a process was killed, or a job cancelled
        if len(cells) == 1:
            record = store.read_or_set_aside(cells[0].folder)[0]
            if record is not None and store.is_finished(record):  # it died after its work was done
                return {cells[0].folder: record}
            if cells[0].cfg.fail_fast:
                stopping.request(stopping.FAIL_FAST)
            reason = f"its process died ({type(error).__name__}: {' '.join(str(error).split())}); was memory short?"
            return {cells[0].folder: fail(cells[0].cfg, cells[0].folder, reason)}
    found = {cell.folder: store.read_or_set_aside(cell.folder)[0] for cell in cells}
    outcomes = {folder: record for folder, record in found.items() if record is not None}
    left = [cell for cell in cells if cell.folder not in outcomes]
    begun = [cell for cell in left if (cell.folder / store.CONFIG_FILE).exists()] or left[:1]
    for cell in begun:
        outcomes |= _launched([cell], launch)
    rest = [cell for cell in left if cell not in begun]
    return outcomes | (_launched(rest, launch) if rest else {})


def _wait_for_one(cells: Sequence[Cell]) -> None:
    """Wait until one of these cells, which another sweep has at work, is free."""
    from hrm_bench.cells.run import locked

    while cells and stopping.requested() is None:
        for cell in cells:
            with locked(cell.folder) as is_free:
                if is_free:
                    return
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _write_manifest(cells: Sequence[Cell], root: Path) -> None:
    """Say which cells are in this folder, for whoever looks at it from outside."""
    with filelock.FileLock(root / store.LOCK_FILE):  # two sweeps may begin here at once
        known = read_manifest(root)
        known |= {cell.folder.name: cell.label for cell in cells}
        store.write_json(root / MANIFEST_FILE, {"command": command(), "cells": known})


def read_manifest(root: Path) -> dict[str, str]:
    """The cells that sweeps in this folder have had, by folder: how a reader tells them apart."""
    try:
        content = json.loads((root / MANIFEST_FILE).read_bytes())
        cells = {str(name): str(label) for name, label in content["cells"].items()}
    except (FileNotFoundError, ValueError, LookupError, AttributeError, TypeError):
        return {}
    return {name: label for name, label in cells.items() if Path(name).name == name}  # none leads out of the folder


def command() -> str:
    """What was typed, to be typed again: what force=true was to run again has been begun."""
    return shlex.join(["python", "-m", "hrm_bench", *(word for word in sys.argv[1:] if word != "force=true")])


def conclude(result: Result, *, root: Path, table: bool = True) -> None:
    """Show the table of these cells and what of them failed, and write their report; exit where one is not finished.

    The exit status is 1, or 128 and the number of the signal that has stopped them.
    """
    cells, outcomes, request, has_run = result
    ran = [outcomes[cell.folder] for cell in cells]
    finished = [record for record in ran if record["status"] == "finished"]
    for cell in cells:
        for note in outcomes[cell.folder].get("notes", []) if has_run else []:
            print(f"{cell.folder.name}: {note}", file=sys.stderr)
    if request.exit_status is not None:
        stopped = sum(record["status"] == "interrupted" for record in ran)
        told = f"{len(finished)} of {len(cells)} cells are finished, {stopped} have stopped where they can go on"
        print(f"interrupted: {told}; to go on:\n  {command()}", file=sys.stderr)
        sys.exit(request.exit_status)
    if finished:
        logger = cells[0].cfg.logger if has_run and len(cells) > 1 else None
        _report(finished, ran, root, table=table, logger=logger)
    if len(cells) == 1:
        print(f"Cell: {os.path.relpath(cells[0].folder)}")
    if len(finished) < len(cells):
        _show_failures(cells, outcomes)
        sys.exit(1)


def _report(
    finished: Sequence[Record], ran: Sequence[Record], root: Path, *, table: bool, logger: DictConfig | None
) -> None:
    """The table, where wanted, and the report, which W&B keeps too, where ``logger`` says how."""
    from hrm_bench.cells import trackers
    from hrm_bench.report import outputs, tables

    if table:
        tables.show(finished)
    for path in outputs.write_all([record for record in ran if "config" in record], root):
        print(f"Written: {os.path.relpath(path)}")
    if logger is not None:
        trackers.report(finished, root, logger)
    if told := trackers.shortfall(finished):
        print(told, file=sys.stderr)


def _show_failures(cells: Sequence[Cell], outcomes: Outcomes) -> None:
    from hrm_bench.report import tables

    lines = []
    for cell in cells:
        record = outcomes[cell.folder]
        if record["status"] != "finished":
            status = "not begun" if record["status"] == "waiting" else record["status"]
            log = os.path.relpath(record["log"]) if "log" in record else ""
            lines.append([cell.label, status, record.get("reason", ""), log])
    failed = sum(outcomes[cell.folder]["status"] == "failed" for cell in cells)
    again = "the same command, without force=true," if cells[0].cfg.force else "the same command"
    note = f"{failed} of {len(cells)} cells failed; {again} runs what is not finished, and nothing else."
    headings = ("cell", "status", "reason", "log")
    tables.print_grid("not finished", headings, lines, words=headings, note=note)
