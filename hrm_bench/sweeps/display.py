"""The progress of cells: a bar in a terminal and plain lines elsewhere while they run, and a table at any time.

Everything is read from small files: a running cell writes its progress into its folder, and a cell that has ended its
record. So the display is the same wherever the cells run, and any machine that has the disk can look.
"""

import collections
import contextlib
import json
import statistics
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from hrm_bench import cli
from hrm_bench.cells import compiling
from hrm_bench.cells.cell import Cell
from hrm_bench.errors import UsageError
from hrm_bench.records import store
from hrm_bench.records.schema import SCHEMA_VERSION, Record
from hrm_bench.table import count
from hrm_bench.training import snapshots
from hrm_bench.training.progress import PROGRESS_FILE

POLL_SECONDS = 0.25
TRAINING = "training"
LATER_PHASES = {"scoring": 0.0, "auditing": 0.3}  # of what follows training: how much is done as a phase begins
TRAINING_SHARE = 0.8  # of a cell's time, before a cell of the command has finished
SILENT_SECONDS = 120.0  # after which a cell without new progress is shown as stopped
TIME_FACTORS = {"model": None, "memory": None, "data": None, "recipe": None, "trainer": None, "scale": 1}  # of a config
HEADINGS = ["cell", "status", "epoch", "validation perplexity", "seconds", "expected seconds", "note", "folder"]


class CellStatus(NamedTuple):
    """The status of a cell as its folder shows it."""

    status: str  # finished | failed | interrupted | running | stopped | waiting
    epoch: str = ""
    perplexity: str = ""  # on validation: the best, or the last so far
    seconds: str = ""
    note: str = ""


class Display:
    """Shows the progress of the cells of one command while its body runs."""

    def __init__(self, cells: Sequence[Cell], *, num_skipped: int = 0) -> None:
        """Show the cells that will run; ``num_skipped`` more are finished already."""
        self.total = len(cells) + num_skipped
        self.num_skipped = num_skipped
        self.started = time.time()
        self.names = {cell.folder: f"cell {n}: {cell.label}" for n, cell in self._numbered(cells)}
        self.waiting = [cell.folder for cell in cells]  # those that have not ended
        self.tasks: dict[Path, TaskID] = {}  # of running cells
        self.fractions: dict[Path, float] = {}  # of running cells: how much of their epochs is done
        self.shares: list[float] = []  # of cells that have finished: training's part of their time
        self.console = Console(stderr=True)
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[note]}", markup=False),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self.overall = self.progress.add_task("", total=len(cells), note="")
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._poll, daemon=True)

    def __enter__(self) -> Self:
        if self.num_skipped:
            verb = "was" if self.num_skipped == 1 else "were"
            self._print(f"{self.num_skipped} of {count(self.total, 'cell')} {verb} already finished")
        self.progress.start()
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join()
        self._update()
        self.progress.stop()

    def _numbered(self, cells: Sequence[Cell]) -> Iterable[tuple[str, Cell]]:
        return ((f"{n} of {self.total}", cell) for n, cell in enumerate(cells, start=self.num_skipped + 1))

    def _poll(self) -> None:
        while not self.ended.wait(POLL_SECONDS):
            self._update()

    def _update(self) -> None:
        for folder in list(self.waiting):
            if record := self._recent(folder / store.RECORD_FILE):
                self._show_end(folder, record)
            elif state := self._recent(folder / PROGRESS_FILE):
                self._show_running(folder, state)
        num_done = len(self.names) - len(self.waiting)
        self.progress.update(
            self.overall,
            description=f"{num_done + self.num_skipped} of {self.total} cells",
            completed=num_done + sum(self.fractions.values()),
            note=self._time_left(),
        )

    def _recent(self, path: Path) -> dict[str, Any] | None:
        """Return the content of a file written since the display began; an older one is from an earlier run."""
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime >= self.started - 1:
                content: dict[str, Any] = json.loads(path.read_text())
                return content
        return None

    def _show_running(self, folder: Path, state: Mapping[str, Any]) -> None:
        if folder not in self.tasks:
            self.tasks[folder] = self.progress.add_task(self.names[folder], total=1.0, note="")
        self.fractions[folder] = fraction = self._fraction(state)
        note = f"{state['phase']} after " if state["phase"] != TRAINING else ""
        note += f"epoch {state['epoch']} of at most {state['max_epochs']}"
        if state["perplexity"] is not None:
            note += f", validation perplexity {state['perplexity']:.2f}"
        self.progress.update(self.tasks[folder], completed=fraction, note=note)

    def _fraction(self, state: Mapping[str, Any]) -> float:
        """Return how much of a cell is done: its training takes about as much of its time as in the cells before."""
        training = statistics.median(self.shares) if self.shares else TRAINING_SHARE
        if state["phase"] == TRAINING:
            return float(training * state["fraction"])
        return training + (1 - training) * LATER_PHASES.get(state["phase"], 0.0)

    def _show_end(self, folder: Path, record: Mapping[str, Any]) -> None:
        self.waiting.remove(folder)
        self.fractions.pop(folder, None)
        if folder in self.tasks:
            self.progress.remove_task(self.tasks.pop(folder))
        if record["status"] != "finished":
            self._print(f"{self.names[folder]}: {record['status']}: {record['reason']}")
            return
        self.shares.append(min(1.0, record["train_seconds"] / record["seconds"]))
        left = f"; {self._time_left()}" if self.waiting else ""
        self._print(
            f"{self.names[folder]}: best epoch {record['best_epoch']}, "
            f"validation perplexity {record['validation']['perplexity']:.2f}, "
            f"test {record['test']['perplexity']:.2f}, {record['seconds']:.0f} s{left}"
        )

    def _print(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=not self.console.is_terminal)

    def _time_left(self) -> str:
        """Estimate the time left from the cells so far; cells that stop early need less."""
        done = len(self.names) - len(self.waiting) + sum(self.fractions.values())
        if not done:
            return ""
        seconds = (time.time() - self.started) / done * (len(self.names) - done)
        return f"about {seconds / 60:.0f} min left" if seconds >= 90 else f"about {seconds:.0f} s left"


def cell_status(folder: Path) -> CellStatus:
    """Return the status of the cell in a folder; a cell without a folder is waiting."""
    try:
        record = store.read(folder)
    except UsageError:
        return CellStatus("stopped", note="its record is damaged; the sweep's command runs it again")
    if record is not None:
        return _ended(record)
    try:
        path = folder / PROGRESS_FILE
        state, silent = json.loads(path.read_bytes()), time.time() - path.stat().st_mtime
    except (FileNotFoundError, ValueError):
        state, silent = None, 0.0
    snapshot = "continues from its snapshot" if (folder / snapshots.SNAPSHOT_FILE).exists() else "starts again"
    if state is None:
        has_begun = (folder / store.CONFIG_FILE).exists()
        return CellStatus("stopped", note=snapshot) if has_begun else CellStatus("waiting")
    perplexity = "" if state["perplexity"] is None else f"{state['perplexity']:.2f}"
    phase = "" if (name := state.get("phase", TRAINING)) == TRAINING else name
    status = CellStatus("running", f"{state['epoch']} of at most {state['max_epochs']}", perplexity, note=phase)
    if silent < SILENT_SECONDS:
        return status
    return status._replace(status="stopped", note=f"silent for {silent / 60:.0f} min; if it was killed, it {snapshot}")


def _ended(record: Record) -> CellStatus:
    if record["schema_version"] != SCHEMA_VERSION:
        return CellStatus("stopped", note="of another version of hrm_bench; it runs again")
    if record["status"] != "finished":
        return CellStatus(record["status"], note=record.get("reason", ""))
    epoch = f"best {record['best_epoch']} of {len(record['history'])}"
    note = "" if record["causal"] else "not causal"
    return CellStatus("finished", epoch, f"{record['validation']['perplexity']:.2f}", f"{record['seconds']:.0f}", note)


def print_status(title: str, labels: Mapping[str, str], root: Path, *, expected: Mapping[str, float]) -> None:
    """Print a table of the cells of a sweep's folder, and how many have which status.

    Args:
        title: the table's title.
        labels: how a reader distinguishes the cells, by the name of the cell's folder.
        root: the sweep's folder.
        expected: seconds that cells that are not finished may take, for those for which it is known.
    """
    statuses = {name: cell_status(root / name) for name in labels}
    rows = []
    for name, status in statuses.items():
        seconds = f"{expected[name]:.0f}" if name in expected and status.status != "finished" else ""
        rows.append([labels[name], *status[:4], seconds, status.note, name])
    shown = [column for column in range(len(HEADINGS)) if any(row[column] for row in rows)]
    counts = collections.Counter(status.status for status in statuses.values())
    counted = ", ".join(f"{number} {status}" for status, number in counts.items())
    cli.print_table(
        title,
        [HEADINGS[column] for column in shown],
        [[row[column] for column in shown] for row in rows],
        text_columns={"cell", "status", "epoch", "note", "folder"},
        caption=f"{count(len(labels), 'cell')}: {counted}",
    )


def print_plan(cells: Sequence[Cell], root: Path) -> None:
    """Print the cells of a command that is not run: which are finished, and how long the others may take."""
    expected = expected_seconds(cells, root)
    print_status(f"plan of {root.name}", {cell.folder.name: cell.label for cell in cells}, root, expected=expected)
    left = [cell.folder.name for cell in cells if cell.config.force or cell_status(cell.folder).status != "finished"]
    known = [expected[name] for name in left if name in expected]
    if known:
        print(
            f"For {len(known)} of {count(len(left), 'cell')} to run, cells of the same kind have run before; by their "
            f"medians they take about {sum(known) / 60:.0f} min one after another. launcher=joblib runs one per core "
            "at a time."
        )
    elif left:
        print(f"{count(len(left), 'cell')} to run; no cell of their kind has run here, so their time is not known.")
    for decision in compiling.decide([cell for cell in cells if cell.folder.name in left], root).values():
        print(f"{decision.reason}.")
    print("Nothing was run: plan=true.")


def expected_seconds(cells: Iterable[Cell], root: Path) -> dict[str, float]:
    """Return the median seconds of finished cells of the same kind, here and in sweeps beside, by folder's name."""
    seconds = collections.defaultdict(list)
    for folder in [root, *sorted(path for path in root.parent.glob("*/") if path != root)]:
        for record in store.read_whole(folder):
            if store.is_finished(record):
                seconds[_kind(record["config"])].append(record["seconds"])
    kinds = {cell.folder.name: _kind(cell.values) for cell in cells}
    return {name: statistics.median(seconds[kind]) for name, kind in kinds.items() if kind in seconds}


def _kind(config: Mapping[str, Any]) -> str:
    """Return what a cell's time depends on."""
    return json.dumps([config.get(key, default) for key, default in TIME_FACTORS.items()], sort_keys=True)
