"""``python -m hrm_bench.status [FOLDER ...]``: how far sweeps are, read from their folders, also while they run.

It reads what the cells write (records, progress) and touches nothing: any machine that has the disk can look.
"""

import collections
import json
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hrm_bench.errors import UsageError, command
from hrm_bench.records import store
from hrm_bench.records.schema import SCHEMA_VERSION, Record
from hrm_bench.sweeps import sweep
from hrm_bench.training import snapshots
from hrm_bench.training.progress import PROGRESS_FILE

ALL = Path("multirun")
SILENCE = 120.0  # seconds without a word from a cell that is said to run
# Of a config: what a cell's time depends on.
TIME_FACTORS = {"model": None, "memory": None, "data": None, "recipe": None, "trainer": None, "scale": 1}


class Standing(NamedTuple):
    """How a cell stands, by its folder."""

    status: str  # finished | failed | interrupted | running | stopped | waiting
    epoch: str = ""
    perplexity: str = ""  # on validation: the best, or the last so far
    seconds: str = ""
    note: str = ""


def standing(folder: Path) -> Standing:
    """Read how the cell in this folder stands; one without a folder has not begun."""
    try:
        record = store.read(folder)
    except UsageError:
        return Standing("stopped", note="its record is damaged; its sweep, run again, runs it again")
    if record is not None:
        return _ended(record)
    try:
        path = folder / PROGRESS_FILE
        state, silent = json.loads(path.read_bytes()), time.time() - path.stat().st_mtime
    except (FileNotFoundError, ValueError):
        state, silent = None, 0.0
    snapshot = "goes on from its snapshot" if (folder / snapshots.SNAPSHOT_FILE).exists() else "begins again"
    if state is None:
        return Standing("stopped", note=snapshot) if (folder / store.CONFIG_FILE).exists() else Standing("waiting")
    perplexity = "" if state["perplexity"] is None else f"{state['perplexity']:.2f}"
    how_far = Standing("running", f"{state['epoch']} of at most {state['max_epochs']}", perplexity)
    if silent < SILENCE:
        return how_far
    return how_far._replace(status="stopped", note=f"silent for {silent / 60:.0f} min; if killed, {snapshot}")


def _ended(record: Record) -> Standing:
    if record["schema_version"] != SCHEMA_VERSION:
        return Standing("stopped", note="of another version of hrm_bench: runs again")
    if record["status"] != "finished":
        return Standing(record["status"], note=record.get("reason", ""))
    best = f"best {record['best_epoch']} of {len(record['history'])}"
    causal = "" if record["causal"] else "not causal"
    return Standing("finished", best, f"{record['validation']['perplexity']:.2f}", f"{record['seconds']:.0f}", causal)


def show(title: str, cells: Mapping[str, str], folder: Path, *, seconds: Mapping[str, float] | None = None) -> None:
    """Print a table of the cells (folder's name → label) of a sweep's folder, and how many stand how.

    ``seconds`` are what those that are not finished may take, where that is known.
    """
    from hrm_bench.report import tables

    found = {name: standing(folder / name) for name in cells}
    lines = []
    for name, its in found.items():
        expected = seconds.get(name) if seconds is not None and its.status != "finished" else None
        lines.append([cells[name], *its[:4], "" if expected is None else f"{expected:.0f}", its.note, name])
    counts = collections.Counter(its.status for its in found.values())
    note = f"{len(cells)} cells: " + ", ".join(f"{number} {status}" for status, number in counts.items())
    headings = ["cell", "status", "epoch", "validation perplexity", "seconds", "expected seconds", "note", "folder"]
    kept = [index for index, heading in enumerate(headings) if any(line[index] for line in lines)]
    tables.print_grid(
        title,
        [headings[index] for index in kept],
        [[line[index] for index in kept] for line in lines],
        words={"cell", "status", "epoch", "note", "folder"},
        note=note,
    )


def show_plan(cells: Sequence[sweep.Cell], root: Path) -> None:
    """Print the cells of a command that is not run: which are finished, and how long the others may take."""
    expected = expected_seconds(cells, root)
    show(f"plan of {root.name}", {cell.folder.name: cell.label for cell in cells}, root, seconds=expected)
    left = [cell.folder.name for cell in cells if cell.cfg.force or standing(cell.folder).status != "finished"]
    known = [expected[name] for name in left if name in expected]
    if known:
        print(
            f"The {len(known)} of {len(left)} cells to run whose like has run before take about "
            f"{sum(known) / 60:.0f} min one after another (medians of such cells); launcher=joblib runs as many at "
            "once as there are cores."
        )
    elif left:
        print(f"{len(left)} cells to run; none of their like has run here, so their time is not known.")
    print("Nothing was run: plan=true.")


def expected_seconds(cells: Iterable[sweep.Cell], root: Path) -> dict[str, float]:
    """By the cell's folder: the median of finished cells, here and in sweeps beside, that do the same work."""
    from omegaconf import OmegaConf

    taken: dict[str, list[float]] = {}
    for folder in [root, *sorted(path for path in root.parent.glob("*/") if path != root)]:
        for record in store.read_whole(folder):
            if store.is_finished(record):
                taken.setdefault(_like(record["config"]), []).append(record["seconds"])
    found = {}
    for cell in cells:
        config: Any = OmegaConf.to_container(cell.cfg, resolve=True)
        if seconds := taken.get(_like(config)):
            found[cell.folder.name] = statistics.median(seconds)
    return found


def _like(config: Mapping[str, Any]) -> str:
    return json.dumps([config.get(key, default) for key, default in TIME_FACTORS.items()], sort_keys=True)


def main(words: list[str]) -> int:
    """Show each sweep folder (default: all in multirun/)."""
    folders = [Path(word) for word in dict.fromkeys(words)]
    folders = folders or sorted(path.parent for path in ALL.glob(f"*/{sweep.MANIFEST_FILE}"))
    if not folders:
        raise UsageError(f"{ALL}/: no sweeps here; run one, or give their folders")
    for folder in folders:
        cells = sweep.read_manifest(folder)
        if not cells:
            raise UsageError(f"{folder}: no sweep here ({sweep.MANIFEST_FILE} is missing); give the folder of a sweep")
        show(folder.name, cells, folder)
    return 0


if __name__ == "__main__":
    command(main)
