"""The mirror in W&B: a run a cell, in the cell's folder. Nothing is ever read back from it."""

import functools
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from omegaconf import DictConfig, OmegaConf

from hrm_bench import network
from hrm_bench.records.schema import Epoch, Record

if TYPE_CHECKING:
    from wandb import Run

log = logging.getLogger(__name__)

INIT_TIMEOUT = 15  # seconds to wait for a server before going on offline
PATIENCE = 20.0  # seconds to wait for a run to begin, or to end


Mode = Literal["offline", "online", "disabled"]


class Mirror:
    """The W&B run of one cell, or nothing at all where ``logger.mode`` is disabled.

    A thread of its own talks to W&B, so that no cell waits for it but at its end, and there for PATIENCE at most.
    """

    def __init__(self, cfg: DictConfig, *, name: str, memory: str, folder: Path, run: str | None = None) -> None:
        """``run`` is the id of the run that an earlier start of the cell began, to go on with."""
        config = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))
        config["memory"]["mode"] = memory  # as it is, not as it was asked for of a model that has none
        begin = functools.partial(
            _begin,
            cfg.logger.mode,
            project=cfg.logger.project,
            group=cfg.experiment.name,
            name=name,
            tags=[f"model:{cfg.model.name}", f"memory:{memory}", f"data:{cfg.data.source}"],
            config=config,
            dir=folder,
            id=run,
            resume=None if run is None else "allow",
        )
        self._mode: Mode = "disabled"
        self._run: Run | None = None
        self._known = run
        self._begun, self._ended = threading.Event(), threading.Event()
        self._work: queue.SimpleQueue[Callable[[Run], object] | None] = queue.SimpleQueue()
        if cfg.logger.mode == "disabled":
            self._begun.set()
            self._ended.set()
        else:
            threading.Thread(target=self._talk, args=(begin,), daemon=True).start()

    @property
    def mode(self) -> Mode:
        """As it came to be: offline where online is not to be had; disabled where neither is, as on a full disk."""
        self._begun.wait(PATIENCE)
        return self._mode

    @property
    def run(self) -> str | None:
        """The run's id, as soon as it is known."""
        return self._known if self._run is None else self._run.id

    def log(self, row: Epoch) -> None:
        """Add an epoch to the run's history."""
        values = {key: value for key, value in row.items() if key != "epoch"}
        self._work.put(lambda run: run.log(values, step=row["epoch"]))

    def finish(self, record: Record) -> None:
        """End the run as the cell ended."""

        def end(run: "Run") -> None:
            for split in ("validation", "test"):
                for key, value in record.get(split, {}).items():  # type: ignore[attr-defined]
                    run.summary[f"{split}/{key}"] = value
            for key in ("status", "reason", "identity", "parameters", "best_epoch", "causal", "characters_per_second"):
                if key in record:
                    run.summary[key] = record[key]  # type: ignore[literal-required]
            run.finish(exit_code=0 if record["status"] == "finished" else 1)

        self._work.put(end)
        self._work.put(None)
        if not self._ended.wait(PATIENCE):
            log.warning("W&B has not taken the run after %.0f s; what it lacks is in the cell's folder", PATIENCE)

    def _talk(self, begin: "Callable[[], tuple[Mode, Run | None]]") -> None:
        """A mirror that breaks is no reason to break a cell: say so in its log, and go on without."""
        try:
            self._mode, self._run = begin()
            self._begun.set()
            while self._run is not None and (work := self._work.get()) is not None:
                work(self._run)
        except Exception:
            log.exception("W&B failed; the cell goes on without it")
        finally:
            self._begun.set()
            self._ended.set()


def shortfall(records: Sequence[Record]) -> str | None:
    """How many cells W&B has not taken as it was asked to, in one line; None where it has taken all."""
    short = [record["wandb"] for record in records if record["wandb"] != record["config"]["logger"]["mode"]]
    if not short:
        return None
    kept = [
        (short.count("offline"), "kept offline, for `wandb sync`"),
        (short.count("disabled"), "not kept, see log.txt in the cells' folders"),
    ]
    told = "; ".join(f"{count} {how}" for count, how in kept if count)
    return f"W&B did not take {len(short)} of {len(records)} runs as asked: {told}"


def report(records: Sequence[Record], folder: Path, logger: DictConfig) -> None:
    """The report of a finished sweep as a run of its group: the table, every plot as an image, and the page.

    ``folder`` is the sweep's, with the report already in it; the run is kept there. What W&B cannot do is logged and
    changes nothing.
    """
    experiment = records[0]["config"]["experiment"]
    try:
        _, run = _begin(
            logger.mode,
            project=logger.project,
            group=experiment["name"],
            name=f"report of {experiment['name']}",
            job_type="report",
            tags=["report"],
            config={"experiment": experiment},
            dir=folder,
        )
        if run is None:
            return
        import wandb

        from hrm_bench.report import claims, curves, drawing, outputs, tables, verdicts
        from hrm_bench.report.variants import variants

        headings, lines = tables.grid(records)
        shown: dict[str, Any] = {"results": wandb.Table(columns=[*headings], data=lines)}
        found = claims.findings(records)
        if found:
            headings, lines = verdicts.grid(found)
            shown["verdicts"] = wandb.Table(columns=[*headings], data=lines)
        with drawing.style():
            for panel in curves.panels(variants(records)):
                shown[f"learning/{drawing.slug(panel.title or 'all')}"] = wandb.Image(curves.learning(panel))
        shown["page"] = wandb.Html(str(folder / outputs.PAGE_FILE), inject=False)
        run.log(shown)
        run.finish()
    except Exception as error:
        log.warning("W&B failed (%s: %s); the report is in %s all the same", type(error).__name__, error, folder)


def _begin(mode: Mode, **arguments: Any) -> "tuple[Mode, Run | None]":
    """A run, and the mode that it came to be in."""
    if mode == "disabled":
        return mode, None
    import wandb

    arguments |= {
        "reinit": "create_new",
        "settings": wandb.Settings(silent=True, console="off", init_timeout=INIT_TIMEOUT),
    }
    if mode == "online" and not network.answers(server := wandb.setup().settings.base_url):
        log.warning("W&B's server %s does not answer; the run is kept offline", server)
        mode = "offline"
    try:
        return mode, wandb.init(mode=mode, **arguments)
    except wandb.errors.Error as error:
        log.warning("W&B %s is not to be had (%s); the run is kept offline", mode, error)
        return "offline", wandb.init(mode="offline", **arguments)
