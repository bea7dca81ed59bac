"""The cells of one command, one or many: plan them, and run those that are not finished, wherever they run."""

import json
import math
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import filelock
from omegaconf import DictConfig

from hrm_bench.cells import compiling, preflight
from hrm_bench.cells.cell import Cell
from hrm_bench.cells.provenance import code_version
from hrm_bench.cells.run import clear, fail, locked
from hrm_bench.config import compose
from hrm_bench.data.corpora import Library
from hrm_bench.data.text import REPLACEMENT
from hrm_bench.errors import UsageError
from hrm_bench.records import store
from hrm_bench.records.extras import read_baselines
from hrm_bench.records.facts import carries_unrelated, text_name
from hrm_bench.records.schema import MANIFEST_FILE, SCHEMA_VERSION, Manifest, Record
from hrm_bench.sweeps.display import Display
from hrm_bench.training.build import build, load_windows
from hrm_bench.training.progress import PROGRESS_FILE
from hrm_bench.training.stopping import FAIL_FAST, Stopped, StopSignal

PREFLIGHT_FILE = "preflight.json"  # in the sweep's folder: the models that have passed
LEAST_UNKNOWN = 0.001  # fraction of a split's characters that the vocabulary may lack in silence
POLL_SECONDS = 0.5  # between looks at cells that another command is running
OTHER_CODE = "were finished by another version of the code and are kept; force=true runs them again"
OTHER_SCHEMA = "have a record of another version of hrm_bench, which this one cannot read; they run again"

UNRELATED = (
    "memory=carry data.order=shuffled: in training, what a memory holds is of unrelated text; with "
    "data.order=contiguous it is of the text before"
)

Launch = Callable[[Sequence[Cell], StopSignal], Sequence[Record]]  # raises if a process of a cell died
Outcomes = dict[Path, Record]  # by the cell's folder


class Result(NamedTuple):
    """The records of a command's cells."""

    cells: Sequence[Cell]
    outcomes: Outcomes
    has_run: bool  # whether any cell was not finished before


class Shared:
    """Texts that a command reads once, and messages that it prints once, for all its cells."""

    def __init__(self) -> None:
        self.library = Library()
        self.printed: set[str] = set()
        self.planned: set[str] = set()  # configs, but for their seeds, whose windows and model have been made

    def print(self, message: str) -> None:
        """Print a message on stderr, unless it was printed before."""
        if message not in self.printed:
            self.printed.add(message)
            print(message, file=sys.stderr)


def plan(cfg: DictConfig, overrides: Sequence[str], root: Path, shared: Shared | None = None) -> Cell:
    """Return a cell whose config, text and model are checked; print what of its config has no effect.

    Raises UsageError with one line per fault.
    """
    compose.check(cfg)
    shared = shared or Shared()
    cell = Cell.of(cfg, root, overrides, shared.library)
    if faults := _length_faults(cell):
        raise UsageError(*faults)
    if cell.but_for_seed not in shared.planned:
        shared.planned.add(cell.but_for_seed)
        load_windows(cfg, cell.corpus)
        for note in [*_unknown_characters(cell), *_model_notes(cell)]:
            shared.print(note)
        if carries_unrelated(cfg, cell.memory):
            shared.print(UNRELATED)
    return cell


def _model_notes(cell: Cell) -> list[str]:
    """Return what the cell's model leaves out of what was asked for. Raises UsageError if it cannot be built."""
    try:
        return build(cell.config, len(cell.corpus.vocabulary)).notes
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "DefaultCPUAllocator" not in str(error):
            raise
        width = f"model.width={cell.config.model.get('width')} scale={cell.config.scale}"
        raise UsageError(f"{width}: the model does not fit into this machine's memory; try a smaller width") from error


def _unknown_characters(cell: Cell) -> list[str]:
    """Return one line if a split has more than 0.1 % of characters that the vocabulary lacks.

    Raises UsageError if it has more than ``data.most_unknown``.
    """
    data, texts = cell.config.data, cell.corpus.splits
    fractions = {split: text.unknown_characters / max(1, text.num_characters) for split, text in texts.items()}
    if max(fractions.values()) <= LEAST_UNKNOWN:
        return []
    unknown = sum((text.unknown for text in texts.values()), Counter[str]())
    commonest = " ".join(repr(character) for character, _ in unknown.most_common(5))
    percent = ", ".join(f"{100 * fraction:.1f} % of {split}" for split, fraction in fractions.items())
    source = f"data.path={data.path}" if data.source == "text_file" else f"data={text_name(data)}"
    read_as = {" ": "spaces", REPLACEMENT: "U+FFFD"}.get(first := cell.corpus.vocabulary.characters[0], repr(first))
    line = f"{source}: {percent} characters are not in the vocabulary ({commonest}) and are read as {read_as}"
    if max(fractions.values()) > data.most_unknown:
        most = math.ceil(100 * max(fractions.values())) / 100
        ways = [f"data.vocabulary={name}" for name in ("bytes", "characters") if name != data.vocabulary]
        raise UsageError(
            f"{line}; at most {100 * data.most_unknown:g} % are allowed: give {' or '.join(ways)}, "
            f"or allow it with data.most_unknown={most}"
        )
    return [f"{line}, so perplexities are lower than those of the text itself"]


def job_words(cell: Cell) -> list[str]:
    """Return the words that compose a cell again, with what the command does with it."""
    return [*cell.overrides, *(f"{key}=true" for key in compose.SWEEP_KEYS if cell.config[key])]


def _length_faults(cell: Cell) -> list[str]:
    """Return one line per split of the text that has fewer characters than the config asks for."""
    wanted = {split: cell.config.data[f"{split}_chars"] for split in cell.corpus.splits}
    return [
        f"data.{split}_chars={wanted[split]}: the {split} text has {text.num_characters:,} characters; "
        f"try data.{split}_chars=null, which takes all"
        for split, text in cell.corpus.splits.items()
        if wanted[split] is not None and text.num_characters < wanted[split]
    ]


def execute(
    cells: Sequence[Cell],
    root: Path,
    launch: Launch,
    stop: StopSignal,
    *,
    command: str = "",
    shared: Shared | None = None,
) -> Result:
    """Run the cells that are not finished, each once, and show their progress.

    Args:
        cells: planned cells of the sweep's folder ``root``.
        root: an existing folder.
        launch: runs cells and returns their records.
        stop: the request to stop, which this process and the cells obey.
        command: what a user types to continue, kept in the manifest.
        shared: what earlier cells of the same command share with these.
    """
    shared = shared or Shared()
    records = _records(cells, shared)
    pending = [cell for cell in cells if cell.folder not in records]
    check_models(pending, root, remembers=True)
    compiling.decide(pending, root, remembers=True)
    outcomes, pending = _prepare(cells, records, shared)
    has_run = bool(pending)
    _write_manifest(cells, root, command)
    with Display(pending, num_skipped=len(cells) - len(pending)), suppress(Stopped):  # ``stop`` has the reason
        _run(pending, launch, stop, outcomes, shared)
    for cell in cells:
        if outcomes.get(cell.folder, {"status": "busy"})["status"] == "busy":
            outcomes[cell.folder] = store.read_or_set_aside(cell.folder)[0] or Record(status="waiting")
    return Result(cells, outcomes, has_run)


def check_models(cells: Sequence[Cell], root: Path, *, remembers: bool = False) -> None:
    """Try each model of these cells once, unless an earlier command did. Raises UsageError with a line per breach.

    With ``remembers``, the folder keeps which models have passed, with the code that they passed with.
    """
    passed = set(store.read_json(root / PREFLIGHT_FILE) or [])
    architectures = {preflight.architecture(cell): cell for cell in cells}
    untried = {key: cell for cell in architectures.values() if (key := preflight.key(cell)) not in passed}
    faults = list[str]()
    for cell in untried.values():
        try:
            preflight.check(cell)
        except UsageError as error:
            faults += error.faults
    if faults:
        raise UsageError(*dict.fromkeys(faults))
    if untried and remembers:
        store.write_json(root / PREFLIGHT_FILE, sorted(passed | untried.keys()))


def _records(cells: Sequence[Cell], shared: Shared) -> Outcomes:
    """Return the records of finished cells that are not to run again."""
    finished = Outcomes()
    for cell in cells:
        record, damage = store.read_or_set_aside(cell.folder)
        for message in damage:
            shared.print(f"{cell.folder.name}: {message}")
        if record is not None and store.is_finished(record) and not cell.config.force:
            finished[cell.folder] = record
    return finished


def _prepare(cells: Sequence[Cell], finished: Outcomes, shared: Shared) -> tuple[Outcomes, list[Cell]]:
    """Return the records of finished cells, and the cells to run, whose records of earlier failures are removed."""
    pending, counts = list[Cell](), Counter[str]()
    for cell in cells:
        if cell.folder in finished:
            counts[OTHER_CODE] += finished[cell.folder]["code"] != code_version(cell.config)
            continue
        record = store.read_or_set_aside(cell.folder)[0]
        counts[OTHER_SCHEMA] += record is not None and record["schema_version"] != SCHEMA_VERSION
        pending.append(cell)
        if cell.folder.exists():
            with locked(cell.folder) as is_free:
                if is_free and cell.config.force:
                    clear(cell.folder)
                elif is_free:
                    (cell.folder / store.RECORD_FILE).unlink(missing_ok=True)
    for message, number in counts.items():
        if number:
            shared.print(f"{number} of {len(cells)} cells {message}")
    return finished, pending


def _run(cells: Sequence[Cell], launch: Launch, stop: StopSignal, outcomes: Outcomes, shared: Shared) -> None:
    """Launch cells until each has an outcome, or until the command is to stop.

    If a process dies, the launch raises. Then every cell that was being trained is launched again by itself, so that
    only the cell that kills its process a second time fails. A cell that another command is running comes last.
    """
    groups = deque([list(cells)] if cells else [])  # cells to launch together
    while groups and not stop.requested():
        group = groups.popleft()
        try:
            outcomes.update(zip((cell.folder for cell in group), launch(group, stop), strict=True))
        except Exception as error:  # whatever the launcher raises
            if len(group) == 1:
                outcomes[group[0].folder] = _died(group[0], error, stop)
            else:
                groups.extendleft(reversed(_groups_after_death(group, outcomes)))
        busy = [] if groups else [cell for cell in cells if outcomes[cell.folder]["status"] == "busy"]
        if busy:
            _wait_for_one(busy, stop, shared)
            groups.append(busy)


def _groups_after_death(cells: Sequence[Cell], outcomes: Outcomes) -> list[list[Cell]]:
    """Return how to launch the rest of a group whose launch raised; add the outcomes that there are."""
    rest = []
    for cell in cells:
        record = store.read_or_set_aside(cell.folder)[0]
        if record is None:
            rest.append(cell)
        else:
            outcomes[cell.folder] = record
    has_begun = [(cell.folder / store.CONFIG_FILE).exists() for cell in rest]
    if not any(has_begun):  # the first is tried alone, since each launch must make progress
        has_begun[:1] = [True]
    alone = [[cell] for cell, begun in zip(rest, has_begun, strict=True) if begun]
    together = [cell for cell, begun in zip(rest, has_begun, strict=True) if not begun]
    return [*alone, together] if together else alone


def _died(cell: Cell, error: Exception, stop: StopSignal) -> Record:
    """Return the record of a cell whose process died, which is finished if it died after its work."""
    record = store.read_or_set_aside(cell.folder)[0]
    if record is not None and store.is_finished(record):
        return record
    if cell.config.fail_fast:
        stop.request(FAIL_FAST)
    reason = f"its process died ({type(error).__name__}: {' '.join(str(error).split())}); was there too little memory?"
    return fail(cell, reason)


def _wait_for_one(cells: Sequence[Cell], stop: StopSignal, shared: Shared) -> None:
    """Wait until one of these cells, which another command is running, is free; say so."""
    while not stop.requested():
        for cell in cells:
            with locked(cell.folder) as is_free:
                if is_free:
                    return
        for cell in cells:
            state = store.read_json(cell.folder / PROGRESS_FILE) or {}
            process = f" (process {state['process']})" if "process" in state else ""
            shared.print(f"{cell.label}: another command is running it{process} in {cell.folder}; waiting for its end")
        time.sleep(POLL_SECONDS)


def _write_manifest(cells: Sequence[Cell], root: Path, command: str) -> None:
    """Add these cells, and what they are compared with, to the list in the sweep's folder, which others read."""
    with filelock.FileLock(root / store.LOCK_FILE):  # two commands may start in one folder at the same time
        labels = read_manifest(root)
        labels.update({cell.folder.name: cell.label for cell in cells})
        baselines = read_baselines(root)
        baselines.update({cell.config.experiment.name: cell.values["experiment"]["baseline"] for cell in cells})
        store.write_json(root / MANIFEST_FILE, Manifest(command=command, cells=labels, baselines=baselines))


def read_manifest(root: Path) -> dict[str, str]:
    """Return the labels of all cells that commands have had in this folder, by the name of the cell's folder."""
    try:
        content = json.loads((root / MANIFEST_FILE).read_bytes())
        labels = {str(name): str(label) for name, label in content["cells"].items()}
    except (FileNotFoundError, ValueError, LookupError, AttributeError, TypeError):
        return {}
    return {name: label for name, label in labels.items() if Path(name).name == name}  # none leads out of the folder
