"""Hydra's sweeper for cells. It stands here because Hydra takes plugins from ``hydra_plugins`` alone.

Hydra imports this module at every start of every Hydra program, so it imports hrm_bench only when it sweeps.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import open_dict

if TYPE_CHECKING:
    from hrm_bench.sweep import Cell


class CellSweeper(BasicSweeper):
    """Hydra's sweeper over lists of values, for cells.

    Every cell is composed and checked before the first one runs, those that are the same cell run once, those that are
    finished not again, and the sweep ends with a table, also where cells have failed.
    """

    def __init__(self, max_batch_size: int | None = None, params: dict[str, str] | None = None) -> None:
        super().__init__(max_batch_size=max_batch_size, params=params)

    def sweep(self, arguments: list[str]) -> Any:
        from hrm_bench.progress import Display
        from hrm_bench.sweep import conclude, is_finished, watched

        assert self.config is not None
        assert self.launcher is not None
        root = Path(self.config.hydra.sweep.dir).absolute()
        root.mkdir(parents=True, exist_ok=True)
        cells = self._plan(arguments, root)
        pending = [cell for cell in cells if not is_finished(cell)]
        with Display([watched(cell) for cell in pending], num_skipped=len(cells) - len(pending)):
            if pending:
                self.launcher.launch([cell.overrides for cell in pending], initial_job_idx=0)
        conclude([cell.folder for cell in cells], root=root, report_run=bool(pending))

    def _plan(self, arguments: list[str], root: Path) -> "list[Cell]":
        """The sweep's cells in the order of its lists, each once."""
        from hrm_bench.errors import UsageError
        from hrm_bench.sweep import plan

        assert self.config is not None
        assert self.hydra_context is not None
        loader = self.hydra_context.config_loader
        overrides = OverridesParser.create(config_loader=loader).parse_overrides([*self._parse_config(), *arguments])
        cells: dict[Path, Cell] = {}
        faults: dict[str, None] = {}
        for batch in self.split_arguments(overrides, None):
            for job in batch:
                cfg = loader.load_sweep_config(self.config, list(job))
                with open_dict(cfg):
                    del cfg["hydra"]
                try:
                    cell = plan(cfg, job, root)
                except UsageError as error:
                    faults |= dict.fromkeys(error.faults)
                else:
                    cells.setdefault(cell.folder, cell)
        if faults:
            raise UsageError(*faults)
        return list(cells.values())
