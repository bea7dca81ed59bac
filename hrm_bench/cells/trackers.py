"""Trackers: W&B, or a class of the user's own that ``logger.tracker`` names. Nothing is ever read back from them.

W&B has one run per cell, in the cell's folder, and one per report.
"""

import functools
import logging
import queue
import secrets
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, Literal, cast

from omegaconf import DictConfig

from hrm_bench import network
from hrm_bench.cells.cell import Cell
from hrm_bench.records.schema import Epoch, Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from wandb import Run

log = logging.getLogger(__name__)

INIT_TIMEOUT = 15  # seconds to wait for a server before the run is kept offline
PATIENCE = 20.0  # seconds to wait for a run to begin, or to end
LONGEST_TAG = 64  # characters, by W&B's own limit
SUMMARY = ("status", "reason", "identity", "parameters", "best_epoch", "causal", "characters_per_second")

Mode = Literal["offline", "online", "disabled"]
Table = tuple[Sequence[str], Sequence[Sequence[Any]]]  # headings, rows


class Tracker(ABC):
    """A copy of a cell's history elsewhere; the cell ends if it raises anything."""

    def __init__(self, cell: Cell, run: str | None = None) -> None:
        """Begin a run, or continue the one with the id ``run``, which an earlier start of the cell began."""
        self.run = run

    @classmethod
    def faults(cls, logger: Mapping[str, Any]) -> Iterator[str]:
        """Yield why a cell cannot have this tracker with these values of the group ``logger``."""
        yield from ()

    @property
    def mode(self) -> Mode:
        """W&B's mode in effect, which the record keeps."""
        return "disabled"

    @abstractmethod
    def log(self, row: Epoch) -> None:
        """Add an epoch; a cell that is resumed adds its earlier ones again."""

    @abstractmethod
    def finish(self, record: Record) -> None:
        """End the run with the cell's record."""


def history_values(row: Epoch) -> dict[str, float]:
    """Return an epoch's values by name: ``epoch/validation_nll``, not to be taken for the score ``validation/nll``."""
    return {f"epoch/{key}": cast(float, value) for key, value in row.items() if key != "epoch"}


def summary_values(record: Record) -> dict[str, Any]:
    """Return a cell's figures by name: scores of the best epoch, n-gram baselines and unknown characters per split."""
    values: dict[str, Any] = dict(record)
    figures = {key: values[key] for key in SUMMARY if key in values}
    for split in ("validation", "test"):
        figures |= {f"{split}/{key}": value for key, value in values.get(split, {}).items()}
        for baseline, readings in values.get("floors", {}).get(split, {}).items():
            figures |= {f"{split}/baselines/{baseline}/{way}": value for way, value in readings.items()}
    return figures | {f"{split}/unknown": part for split, part in values.get("unknown_fractions", {}).items()}


def tracker_of(cell: Cell) -> type[Tracker]:
    """Return the class of a cell's tracker."""
    name = cell.config.logger.tracker
    return Mirror if name == "wandb" else cast(type[Tracker], resolve_name(name))


class Mirror(Tracker):
    """The W&B run of one cell, or nothing if ``logger.mode`` is disabled.

    A thread of its own talks to W&B. A cell waits for it only at its end, and for PATIENCE at most.
    """

    def __init__(self, cell: Cell, run: str | None = None) -> None:
        logger = cell.config.logger
        super().__init__(cell, None if logger.mode == "disabled" else run or secrets.token_hex(4))
        self._mode: Mode = "disabled"
        self._begun, self._ended = threading.Event(), threading.Event()
        self._work: queue.SimpleQueue[Callable[[Run], object] | None] = queue.SimpleQueue()
        if self.run is None:
            self._begun.set()
            self._ended.set()
            return
        tags = [f"model:{cell.config.model.name}", f"memory:{cell.memory}", f"data:{cell.config.data.source}"]
        begin = functools.partial(
            _begin,
            logger.mode,
            project=logger.project,
            entity=logger.entity,
            group=cell.config.experiment.name,
            name=logger.name or cell.folder.name,
            tags=[*dict.fromkeys(tag[:LONGEST_TAG] for tag in (*tags, *logger.tags))],
            config={**cell.values, "memory": {**cell.values["memory"], "mode": cell.memory}},
            dir=cell.folder,
            id=self.run,
            resume=None if run is None else "allow",
        )
        threading.Thread(target=self._talk, args=(begin,), daemon=True).start()

    @property
    def mode(self) -> Mode:
        """The mode in effect: offline if online is not available; disabled if neither is, as on a full disk."""
        self._begun.wait(PATIENCE)
        return self._mode

    def log(self, row: Epoch) -> None:
        """Add an epoch to the run's history."""
        self._work.put(lambda run: run.log(history_values(row), step=row["epoch"]))

    def finish(self, record: Record) -> None:
        """End the run with the cell's status and figures."""

        def end(run: "Run") -> None:
            run.summary.update(summary_values(record))
            run.finish(exit_code=0 if record["status"] == "finished" else 1)

        self._work.put(end)
        self._work.put(None)
        if not self._ended.wait(PATIENCE):
            log.warning("W&B has not taken the run after %.0f s; the cell's folder has what it lacks", PATIENCE)

    def _talk(self, begin: "Callable[[], tuple[Mode, Run | None]]") -> None:
        """Do the run's work; if W&B fails, log it and leave the cell alone."""
        try:
            self._mode, run = begin()
            self._begun.set()
            while run is not None and (work := self._work.get()) is not None:
                work(run)
        except Exception:
            log.exception("W&B failed; the cell continues without it")
        finally:
            self._begun.set()
            self._ended.set()


def shortfall(records: Sequence[Record]) -> str | None:
    """Return one line on the cells that W&B did not take in the mode that was asked for; None if it took all."""
    short = [record["wandb"] for record in records if record["wandb"] != record["config"]["logger"]["mode"]]
    if not short:
        return None
    kept = [
        (short.count("offline"), "kept offline, for `wandb sync`"),
        (short.count("disabled"), "not kept, see log.txt in the cells' folders"),
    ]
    details = "; ".join(f"{count} {how}" for count, how in kept if count)
    return f"W&B did not take {len(short)} of {len(records)} runs as asked: {details}"


def upload_report(
    experiment: Mapping[str, Any],
    folder: Path,
    logger: DictConfig,
    *,
    tables: Mapping[str, Table],
    figures: "Mapping[str, Figure]",
    page: Path,
) -> None:
    """Keep the report of a sweep as a run of its experiment's group, in the sweep's folder.

    What W&B cannot do is logged and changes nothing.
    """
    try:
        _, run = _begin(
            logger.mode,
            project=logger.project,
            entity=logger.get("entity"),
            group=experiment["name"],
            name=f"report of {experiment['name']}",
            job_type="report",
            tags=["report"],
            config={"experiment": experiment},
            dir=folder,
            id=secrets.token_hex(4),
        )
        if run is None:
            return
        import wandb

        content: dict[str, Any] = {
            name: wandb.Table(columns=[*headings], data=[list(row) for row in rows])
            for name, (headings, rows) in tables.items()
        }
        content.update({name: wandb.Image(figure) for name, figure in figures.items()})
        content["page"] = wandb.Html(str(page), inject=False)
        run.log(content)
        run.finish()
    except Exception as error:
        log.warning("W&B failed (%s: %s); the report is in %s", type(error).__name__, error, folder)


def _begin(mode: Mode, **arguments: Any) -> "tuple[Mode, Run | None]":
    """Begin a run; return it with the mode in effect."""
    if mode == "disabled":
        return mode, None
    import wandb

    settings = wandb.Settings(silent=True, console="off", init_timeout=INIT_TIMEOUT)
    arguments.update(reinit="create_new", settings=settings)
    if mode == "online" and not network.is_reachable(server := wandb.setup().settings.base_url):
        log.warning("W&B's server %s cannot be reached; the run is kept offline", server)
        mode = "offline"
    try:
        return mode, wandb.init(mode=mode, **arguments)
    except wandb.errors.Error as error:
        log.warning("W&B %s is not available (%s); the run is kept offline", mode, error)
        return "offline", wandb.init(mode="offline", **arguments)
