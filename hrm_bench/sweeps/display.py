"""What is running, for whoever waits: a bar in a terminal, plain lines elsewhere.

A running cell says how far it is in a small file in its folder; the display only reads those files and the records, so
it is the same wherever the cells run.
"""

import contextlib
import json
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from hrm_bench.records import store
from hrm_bench.training.progress import PROGRESS_FILE

POLL_SECONDS = 0.25


class Watched(NamedTuple):
    """A cell as the display knows it."""

    label: str  # model, memory, seed
    folder: Path


class Display:
    """Follows the cells of one command while its body runs; the cells in ``watched`` are those that will run."""

    def __init__(self, watched: list[Watched], *, num_skipped: int = 0) -> None:
        self.watched = watched
        self.num_skipped = num_skipped
        self.console = Console(stderr=True)
        self.started = time.time()
        self.waiting = list(watched)
        self.running: dict[Watched, TaskID] = {}
        self.fractions: dict[Watched, float] = {}
        self.num_done = 0
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[note]}", markup=False),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self.overall = self.progress.add_task(self._count(), total=len(watched), note="")
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Self:
        if self.num_skipped:
            self.console.print(f"{self.num_skipped} of {self._total} cells were already finished", highlight=False)
        self.progress.start()
        self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ended.set()
        self.thread.join()
        self._look()
        self.progress.stop()

    @property
    def _total(self) -> int:
        return len(self.watched) + self.num_skipped

    def _place(self, cell: Watched) -> str:
        return f"cell {self.num_skipped + self.watched.index(cell) + 1} of {self._total}: {cell.label}"

    def _count(self) -> str:
        return f"{self.num_done + self.num_skipped} of {self._total} cells"

    def _follow(self) -> None:
        while not self.ended.wait(POLL_SECONDS):
            self._look()

    def _look(self) -> None:
        for cell in list(self.waiting):
            record = self._fresh(cell.folder / store.RECORD_FILE)
            if record is not None:
                self.waiting.remove(cell)
                self.num_done += 1
                self.fractions.pop(cell, None)
                if cell in self.running:
                    self.progress.remove_task(self.running.pop(cell))
                self.console.print(
                    self._ended_line(cell, record),
                    highlight=False,
                    markup=False,
                    soft_wrap=not self.console.is_terminal,
                )
            else:
                state = self._fresh(cell.folder / PROGRESS_FILE)
                if state is not None:
                    self._show_running(cell, state)
        self.progress.update(
            self.overall,
            description=self._count(),
            completed=self.num_done + sum(self.fractions.values()),
            note=self._left(),
        )

    def _fresh(self, path: Path) -> dict[str, Any] | None:
        """What a file says that was written since the display began: an older one is of an earlier, broken run."""
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime >= self.started - 1:
                content: dict[str, Any] = json.loads(path.read_text())
                return content
        return None

    def _show_running(self, cell: Watched, state: dict[str, Any]) -> None:
        if cell not in self.running:
            self.running[cell] = self.progress.add_task(cell.label, total=1.0, note="")
        self.fractions[cell] = state["fraction"]
        perplexity = state["perplexity"]
        reached = f", validation perplexity {perplexity:.2f}" if perplexity is not None else ""
        self.progress.update(
            self.running[cell],
            description=self._place(cell),
            completed=state["fraction"],
            note=f"epoch {state['epoch']} of at most {state['max_epochs']}{reached}",
        )

    def _ended_line(self, cell: Watched, record: dict[str, Any]) -> str:
        place = f"{self._place(cell)}: "
        if record["status"] != "finished":
            return f"{place}{record['status']}: {record['reason']}"
        validation, test = record["validation"]["perplexity"], record["test"]["perplexity"]
        left = f"; {self._left()}" if self.waiting else ""
        return (
            f"{place}best epoch {record['best_epoch']}, validation perplexity {validation:.2f}, test {test:.2f}, "
            f"{record['seconds']:.0f} s{left}"
        )

    def _left(self) -> str:
        """The time left, if the cells to come take as long as those so far; early stopping makes it less."""
        done = self.num_done + sum(self.fractions.values())
        if not done:
            return ""
        seconds = (time.time() - self.started) / done * (len(self.watched) - done)
        return f"about {seconds / 60:.0f} min left" if seconds >= 90 else f"about {seconds:.0f} s left"
