"""The mirror in W&B: a run a cell, in the cell's folder. Nothing is ever read back from it."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from omegaconf import DictConfig, OmegaConf

from hrm_bench import network
from hrm_bench.records import Epoch, Record

if TYPE_CHECKING:
    from wandb import Run

log = logging.getLogger(__name__)

INIT_TIMEOUT = 15  # seconds to wait for a server before going on offline


class Mirror:
    """The W&B run of one cell, or nothing at all where ``logger.mode`` is disabled."""

    def __init__(self, cfg: DictConfig, *, name: str, memory: str, folder: Path) -> None:
        self._run: Run | None = None
        # Becomes offline, where online was asked for and is not to be had.
        self.mode: Literal["offline", "online", "disabled"] = cfg.logger.mode
        if self.mode == "disabled":
            return
        import wandb

        if self.mode == "online" and not network.answers(server := wandb.setup().settings.base_url):
            log.warning("W&B's server %s does not answer; this cell's run is kept offline", server)
            self.mode = "offline"
        arguments: dict[str, Any] = {
            "project": cfg.logger.project,
            "group": cfg.experiment.name,
            "name": name,
            "tags": [f"model:{cfg.model.name}", f"memory:{memory}", f"data:{cfg.data.source}"],
            "config": OmegaConf.to_container(cfg, resolve=True),
            "dir": folder,
            "reinit": "create_new",
            "settings": wandb.Settings(silent=True, console="off", init_timeout=INIT_TIMEOUT),
        }
        try:
            self._run = wandb.init(mode=self.mode, **arguments)
        except wandb.errors.Error as error:
            log.warning("W&B %s is not to be had (%s); this cell's run is kept offline", self.mode, error)
            self.mode = "offline"
            self._run = wandb.init(mode="offline", **arguments)

    def log(self, row: Epoch) -> None:
        """Add an epoch to the run's history."""
        with self._out_of_the_way():
            if self._run is not None:
                self._run.log({key: value for key, value in row.items() if key != "epoch"}, step=row["epoch"])

    def finish(self, record: Record) -> None:
        """End the run as the cell ended."""
        with self._out_of_the_way():
            if self._run is None:
                return
            for split in ("validation", "test"):
                for key, value in record.get(split, {}).items():  # type: ignore[attr-defined]
                    self._run.summary[f"{split}/{key}"] = value
            for key in ("status", "reason", "identity", "parameters", "best_epoch", "causal", "characters_per_second"):
                if key in record:
                    self._run.summary[key] = record[key]  # type: ignore[literal-required]
            self._run.finish(exit_code=0 if record["status"] == "finished" else 1)

    @contextmanager
    def _out_of_the_way(self) -> Iterator[None]:
        """A mirror that breaks is no reason to break a cell: say so in its log, and go on without."""
        try:
            yield
        except Exception:
            log.exception("W&B failed; the cell goes on without it")
            self._run = None
