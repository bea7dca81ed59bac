"""The work of ``python -m hrm_bench`` with planned cells: run them or search with them, then print and write results.

``__main__`` calls it for one cell and Hydra's sweeper for many. Each function returns the exit status: 0; 1 if a cell
is not finished; 128 and the number of the signal that stopped the command.
"""

import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hrm_bench import cli, numerics
from hrm_bench.cells import trackers
from hrm_bench.cells.cell import Cell
from hrm_bench.records import store
from hrm_bench.records.facts import value_of
from hrm_bench.records.schema import Record
from hrm_bench.report import articles, tables, write
from hrm_bench.report.frame import Sweep
from hrm_bench.report.write import Report
from hrm_bench.sweeps import costs, display, search, sweep
from hrm_bench.sweeps.sweep import Launch, Result, Shared
from hrm_bench.table import count
from hrm_bench.training.stopping import StopSignal


def run_cells(cells: Sequence[Cell], root: Path, launch: Launch) -> int:
    """Run cells in the sweep's folder ``root`` and print their results, or only their plan if the config says so."""
    numerics.enter({cell.config.trainer.numerics for cell in cells})
    if note := _baseline_note(cells):
        print(note, file=sys.stderr)
    if cells[0].config.plan:
        sweep.check_models(cells, root)
        display.print_plan(cells, root)
        costs.append(cells, root)
        return 0
    root.mkdir(parents=True, exist_ok=True)
    stop = StopSignal.of_sweep(root)
    with stop.listening():
        result = sweep.execute(cells, root, launch, stop, command=command())
    return conclude(result, root, stop)


def run_search(
    declared: Mapping[str, Any],
    cells: Sequence[Cell],
    root: Path,
    plan: Callable[[Sequence[str]], Cell],
    launch: Launch,
) -> int:
    """Search values for each of the cells, as ``hydra.sweeper.search`` declares, and print the best.

    ``plan`` returns the checked cell of overrides.
    """
    numerics.enter({cell.config.trainer.numerics for cell in cells})
    space = search.Search.declared(declared)
    studies = search.studies_of(space, cells, plan)
    if cells[0].config.plan:
        print(
            f"A search: {space.trials} trials for each of these cells, with other values of {', '.join(space.space)}."
        )
        sweep.check_models(cells, root)
        display.print_plan(cells, root)
        return 0
    root.mkdir(parents=True, exist_ok=True)
    shared, stop = Shared(), StopSignal.of_sweep(root)
    with stop.listening():

        def execute(trials: Sequence[Cell]) -> Result:
            return sweep.execute(trials, root, launch, stop, command=command(), shared=shared)

        result = search.run(space, studies, plan, execute, stop)
    written = search.write(studies, space, root)
    search.print_best(studies, space)
    for path in written:
        print(f"Written: {os.path.relpath(path)}")
    return conclude(result, root, stop, with_table=False)  # the report has all trials; the best are printed above


def _baseline_note(cells: Sequence[Cell]) -> str | None:
    """Return a note if a sweep of several variants has none that it declares to compare the others with."""
    values = cells[0].values["experiment"]["baseline"]
    num_variants = len({cell.but_for_seed for cell in cells})
    if not values or num_variants < 2 or any(_is_baseline(cell, values) for cell in cells):
        return None
    words = ",".join(f"{key}:{value}" for key, value in values.items())
    return f"experiment.baseline={{{words}}}: this command has no such cell, so it gives no differences"


def _is_baseline(cell: Cell, values: Mapping[str, Any]) -> bool:
    own = {"model": cell.config.model.name, "memory": cell.memory}
    others = {key: value for key, value in values.items() if key not in own}
    if own["model"] != values.get("model", own["model"]):
        return False
    has_mode = own["memory"] in ("none", values.get("memory", own["memory"]))
    return has_mode and all(value_of(cell.values, key, value) == value for key, value in others.items())


def conclude(result: Result, root: Path, stop: StopSignal, *, with_table: bool = True) -> int:
    """Print the results of cells and which of them failed, and write their report; return the exit status."""
    records = [result.outcomes[cell.folder] for cell in result.cells]
    finished = [record for record in records if record["status"] == "finished"]
    for cell, record in zip(result.cells, records, strict=True):
        for note in record.get("notes", []) if result.has_run else []:
            print(f"{cell.folder.name}: {note}", file=sys.stderr)
    if stop.exit_status is not None:
        num_stopped = sum(record["status"] == "interrupted" for record in records)
        print(
            f"interrupted: {len(finished)} of {len(records)} cells are finished, {num_stopped} were stopped; "
            f"to continue:\n  {command()}",
            file=sys.stderr,
        )
        return stop.exit_status
    if finished:
        whole = Sweep.of(store.read_whole(root), path=root)
        is_all = len(whole.whole.cells) == len(finished)
        ran = whole if is_all else Sweep.of([record for record in records if "config" in record], path=root)
        if with_table:
            cli.show(tables.results(ran.whole), articles.articles(ran.whole), tables.baselines(ran.whole))
        if not is_all:
            number, place = count(len(whole.whole.cells), "cell"), os.path.relpath(root)
            print(f"The table above has the cells of this command; the files below have all {number} of {place}.")
        for path in write.write_sweep(Report.of([whole]), root):
            print(f"Written: {os.path.relpath(path)}")
        logger = result.cells[0].config.logger
        if result.has_run and len(records) > 1 and logger.mode != "disabled":
            items = write.tracker_items(ran.records, root)
            trackers.upload_report(finished[0]["config"]["experiment"], root, logger, **items)
        if shortfall := trackers.shortfall(finished):
            print(shortfall, file=sys.stderr)
    if len(records) == 1:
        print(f"Cell: {os.path.relpath(result.cells[0].folder)}")
    if len(finished) < len(records):
        _print_failures(result.cells, records)
        return 1
    return 0


def _print_failures(cells: Sequence[Cell], records: Sequence[Record]) -> None:
    headings = ("cell", "status", "reason", "log")
    rows = []
    for cell, record in zip(cells, records, strict=True):
        if record["status"] != "finished":
            status = "not begun" if record["status"] == "waiting" else record["status"]
            log = os.path.relpath(record["log"]) if "log" in record else ""
            rows.append([cell.label, status, record.get("reason", ""), log])
    num_failed = sum(record["status"] == "failed" for record in records)
    again = "the same command, without force=true," if cells[0].config.force else "the same command"
    cli.print_table(
        "not finished",
        headings,
        rows,
        text_columns=headings,
        caption=f"{num_failed} of {count(len(cells), 'cell')} failed; {again} runs only what is not finished.",
    )


def command() -> str:
    """Return what a user types to continue: the same words, without ``force=true``, which has begun already."""
    return shlex.join(["python", "-m", "hrm_bench", *(word for word in sys.argv[1:] if word != "force=true")])
