"""Hydra's sweeper for cells. It stands here because Hydra takes plugins from ``hydra_plugins`` alone.

Hydra imports this module at every start of every Hydra program, so it imports hrm_bench only when it sweeps.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf, open_dict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hydra.core.utils import JobReturn

    from hrm_bench.records.schema import Record
    from hrm_bench.sweeps.sweep import Cell


@dataclass
class CellSweeperConfig:
    """What ``hydra.sweeper`` can be given."""

    _target_: str = "hydra_plugins.hrm_bench_sweeper.CellSweeper"
    max_batch_size: int | None = None
    params: dict[str, str] | None = None
    search: dict[str, Any] | None = None  # values that are not in lists, but searched for (hrm_bench.tuning)


ConfigStore.instance().store(group="hydra/sweeper", name="hrm_bench", node=CellSweeperConfig, provider="hrm_bench")


class CellSweeper(BasicSweeper):
    """Hydra's sweeper over lists of values, for cells.

    Every cell is composed and checked before the first one runs, those that are the same cell run once, those that are
    finished not again, and the sweep ends with a table, also where cells have failed.
    """

    def __init__(
        self,
        max_batch_size: int | None = None,
        params: dict[str, str] | None = None,
        search: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(max_batch_size=max_batch_size, params=params)
        self.search = search

    def sweep(self, arguments: list[str]) -> Any:
        from hrm_bench import status
        from hrm_bench.sweeps import sweep

        assert self.config is not None
        root = Path(self.config.hydra.sweep.dir).absolute()
        cells = self._plan(arguments, root)
        if self.search is not None:
            return self._search(cells, root)
        if cells[0].cfg.plan:
            return status.show_plan(cells, root)
        root.mkdir(parents=True, exist_ok=True)
        sweep.conclude(sweep.execute(cells, root, self._launch), root=root)

    def _search(self, cells: "Sequence[Cell]", root: Path) -> None:
        """Let each of the cells, as it is composed without them, have values that are searched for."""
        from hrm_bench import status
        from hrm_bench.sweeps import search as tuning
        from hrm_bench.sweeps import sweep
        from hrm_bench.training import stopping

        def plan(words: "Sequence[str]") -> "Cell":
            return self._cell(words, root)

        declared = tuning.Search.declared(OmegaConf.to_container(OmegaConf.create(self.search)))  # type: ignore[arg-type]
        studies = tuning.studies_of(declared, cells, plan)
        if cells[0].cfg.plan:
            keys = ", ".join(declared.space)
            print(f"A search: of each of these cells {declared.trials} trials, with other values of {keys}.")
            return status.show_plan(cells, root)
        root.mkdir(parents=True, exist_ok=True)
        with stopping.listening(root):
            result = tuning.run(declared, studies, plan, execute=lambda few: sweep.execute(few, root, self._launch))
        written = tuning.write(studies, declared, root)
        tuning.show(studies, declared)
        for path in written:
            print(f"Written: {os.path.relpath(path)}")
        sweep.conclude(result, root=root, table=False)  # the trials are in the report; of interest are the best

    def _launch(self, cells: "Sequence[Cell]") -> "list[Record]":
        """Have Hydra's launcher run cells; what each job gave back. Raises what the launcher, or a job, raised."""
        from hrm_bench.training import stopping

        assert self.launcher is not None
        with stopping.listening() as request:  # the sweep's own: its jobs are told where to look
            told = f'++hydra.job.env_set.{stopping.VARIABLE}="{request.file}"'
        # Of a job's process that had to be killed, what its libraries have not cleared away is no news to the user.
        os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker:UserWarning")
        jobs: list[JobReturn] = []
        while len(jobs) < len(cells):  # as many at once as hydra.sweeper.max_batch_size says, or all
            batch = cells[len(jobs) :][: self.max_batch_size]
            jobs += self.launcher.launch([[*cell.overrides, told] for cell in batch], initial_job_idx=len(jobs))
        return [job.return_value for job in jobs]

    def _cell(self, words: "Sequence[str]", root: Path) -> "Cell":
        """The cell of these overrides. Raises UsageError."""
        from hrm_bench.config.compose import not_searched
        from hrm_bench.sweeps.sweep import plan, tell_once

        assert self.hydra_context is not None
        assert self.config is not None
        cfg = self.hydra_context.config_loader.load_sweep_config(self.config, list(words))
        if note := not_searched(cfg.hydra.runtime.choices):
            tell_once(note)
        with open_dict(cfg):
            del cfg["hydra"]
        return plan(cfg, words, root)

    def _plan(self, arguments: list[str], root: Path) -> "list[Cell]":
        """The sweep's cells in the order of its lists, each once."""
        from hrm_bench.errors import UsageError

        assert self.config is not None
        assert self.hydra_context is not None
        loader = self.hydra_context.config_loader
        overrides = OverridesParser.create(config_loader=loader).parse_overrides([*self._parse_config(), *arguments])
        if self.max_batch_size is not None and self.max_batch_size < 1:
            raise UsageError(f"hydra.sweeper.max_batch_size={self.max_batch_size}: must be at least 1, or null for all")
        for each in overrides:
            if each.is_sweep_override() and each.key_or_group in ("experiment", "experiment.name"):
                raise UsageError(f"{each.input_line}: a sweep is one experiment; give a command for each")
        cells: dict[Path, Cell] = {}
        faults: dict[str, None] = {}
        for batch in self.split_arguments(overrides, None):
            for job in batch:
                try:
                    cell = self._cell(job, root)
                except UsageError as error:
                    faults |= dict.fromkeys(error.faults)
                else:
                    cells.setdefault(cell.folder, cell)
        if faults:
            raise UsageError(*faults)
        assert cells, "Hydra gives one job at least"
        return list(cells.values())
