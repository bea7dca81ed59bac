"""Trackers by Lightning's loggers: CSV and TensorBoard in the folder of each cell, and MLflow.

All of them get what W&B gets, under the same names: the config, each epoch, and at the end the figures of the record.
If one of them fails, the cell goes on without it.
"""

import importlib.util
import logging
import os
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger

from hrm_bench.cells.cell import Cell
from hrm_bench.cells.trackers import Tracker, history_values, summary_values
from hrm_bench.records.facts import flat
from hrm_bench.records.schema import Epoch, Record

log = logging.getLogger(__name__)

SERVER = "MLFLOW_TRACKING_URI"
NOT_GIVEN: Mapping[str, Any] = {"entity": None, "name": None, "tags": []}


class LightningTracker(Tracker):
    """A tracker that hands everything to one of Lightning's loggers."""

    title: ClassVar[str]  # after logger=, and the name of its folder, if it has one
    package: ClassVar[str | None] = None  # that must be installed for it
    takes: ClassVar[tuple[str, ...]] = ()  # of the keys in NOT_GIVEN

    def __init__(self, cell: Cell, run: str | None = None) -> None:
        super().__init__(cell, run)
        self.logger: Logger | None = None
        self.last_epoch = 0
        self._safely(lambda: self._begin(cell))

    @classmethod
    def faults(cls, logger: Mapping[str, Any]) -> Iterator[str]:
        if cls.package is not None and importlib.util.find_spec(cls.package) is None:
            yield f"logger={cls.title}: needs {cls.package}, which is not installed; pip install {cls.package}"
        for key, nothing in NOT_GIVEN.items():
            if key not in cls.takes and logger[key] != nothing:
                yield f"logger.{key}={logger[key]}: logger={cls.title} has no {key}; leave it out"

    @abstractmethod
    def make(self, cell: Cell) -> Logger:
        """Return the logger."""

    @abstractmethod
    def write_words(self, words: Mapping[str, str]) -> None:
        """Add what of the record is no number."""

    def log(self, row: Epoch) -> None:
        self.last_epoch = row["epoch"]
        self._safely(lambda: self.logger and self.logger.log_metrics(history_values(row), step=row["epoch"]))

    def finish(self, record: Record) -> None:
        self._safely(lambda: self._end(record))

    def _begin(self, cell: Cell) -> None:
        self.logger = self.make(cell)
        self.logger.log_hyperparams(dict(flat(cell.values)))

    def _end(self, record: Record) -> None:
        if self.logger is None:
            return
        values = summary_values(record)
        numbers = {key: float(value) for key, value in values.items() if isinstance(value, int | float)}
        self.logger.log_metrics(numbers, step=self.last_epoch)
        self.write_words({key: value for key, value in values.items() if isinstance(value, str)})
        self.logger.save()
        self.logger.finalize("success" if record["status"] == "finished" else "failed")

    def _safely(self, work: Callable[[], object]) -> None:
        """Do some work; if it fails, log it once and leave the cell alone."""
        try:
            work()
        except Exception:
            log.exception("logger=%s failed; the cell continues without it", self.title)
            self.logger = None


class CSV(LightningTracker):
    """``csv/metrics.csv``: a row per epoch, and a last one with the figures of the record."""

    title = "csv"

    def make(self, cell: Cell) -> Logger:
        return CSVLogger(cell.folder, name=self.title, version="")

    def write_words(self, words: Mapping[str, str]) -> None:
        if self.logger is not None:
            self.logger.log_hyperparams(dict(words))


class TensorBoard(LightningTracker):
    """TensorBoard's events in ``tensorboard/``; `tensorboard --logdir multirun` shows all cells."""

    title = package = "tensorboard"

    def make(self, cell: Cell) -> Logger:
        return TensorBoardLogger(cell.folder, name=self.title, version="", default_hp_metric=False)

    def write_words(self, words: Mapping[str, str]) -> None:
        if isinstance(self.logger, TensorBoardLogger):
            for key, text in words.items():
                self.logger.experiment.add_text(key, text)


class MLflow(LightningTracker):
    """A run per cell, on the server or in the database that MLFLOW_TRACKING_URI names."""

    title = package = "mlflow"
    takes = ("name", "tags")

    @classmethod
    def faults(cls, logger: Mapping[str, Any]) -> Iterator[str]:
        yield from super().faults(logger)
        if SERVER not in os.environ:
            yield f"logger=mlflow: needs a server or a database; export {SERVER}=sqlite:////FOLDER/mlflow.db"

    def make(self, cell: Cell) -> Logger:
        logger = cell.config.logger
        tags = {f"tag.{number}": tag for number, tag in enumerate(logger.tags)}
        made = MLFlowLogger(
            experiment_name=cell.config.experiment.name,
            run_name=logger.name or cell.folder.name,
            tracking_uri=os.environ[SERVER],
            tags={"model": cell.config.model.name, "memory": cell.memory, **tags},
            run_id=self.run,
        )
        self.run = made.run_id
        return made

    def write_words(self, words: Mapping[str, str]) -> None:
        if isinstance(self.logger, MLFlowLogger) and self.logger.run_id is not None:
            for key, text in words.items():
                self.logger.experiment.set_tag(self.logger.run_id, key, text)
