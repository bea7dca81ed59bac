"""Hydra's sweeper for cells, and a launcher for Ray. Hydra loads plugins only from a package named ``hydra_plugins``.

Hydra imports this module whenever any Hydra program starts, so it imports hrm_bench and Ray only when it runs cells.
Of Hydra it uses these private names: the module ``hydra._internal.core_plugins.basic_sweeper``, and of its class
BasicSweeper the method ``_parse_config`` (``hydra.sweeper.params`` as words) and ``split_arguments`` (lists to jobs);
of ConfigLoaderImpl the method ``_apply_overrides_to_config`` (values into a composed config).
"""

import copy
import functools
import os
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from hrm_bench.cells.cell import Cell
    from hrm_bench.records.schema import Record
    from hrm_bench.sweeps.sweep import Shared
    from hrm_bench.training.stopping import StopSignal

PLAIN_SEED = re.compile(r"seed=(0|[1-9][0-9]{0,8})")


@dataclass
class CellSweeperConfig:
    """The settings of ``hydra.sweeper``."""

    _target_: str = "hydra_plugins.hrm_bench.CellSweeper"
    max_batch_size: int | None = None  # cells that the launcher is given at once; null: all
    params: dict[str, str] | None = None  # by key: the values that are crossed
    cases: list[list[str]] | None = None  # each a list of words, which all combinations of params are crossed with
    search: dict[str, Any] | None = None  # values to search for (hrm_bench.sweeps.search)


ConfigStore.instance().store(group="hydra/sweeper", name="hrm_bench", node=CellSweeperConfig, provider="hrm_bench")


class CellSweeper(BasicSweeper):
    """The sweeper over lists of values and over cases.

    It composes and checks every cell before the first one runs. Words that compose the same cell run it once.
    """

    def __init__(
        self,
        max_batch_size: int | None = None,
        params: dict[str, str] | None = None,
        cases: list[list[str]] | None = None,
        search: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(max_batch_size=max_batch_size, params=params)
        self.cases = cases
        self.search = search
        self.composed: dict[tuple[str, ...], DictConfig] = {}  # by the words of a cell that choose configs
        self.planned: dict[tuple[str, ...], Cell] = {}  # the first cell by its words but the seed; see _cell

    def sweep(self, arguments: list[str]) -> Any:
        """Run the cells. The command exits here, because Hydra drops what a sweeper returns."""
        from hrm_bench.sweeps.planning import planning

        assert self.config is not None
        root = Path(self.config.hydra.sweep.dir).absolute()
        words = planning(self._words(arguments))  # whose first line comes before imports that take seconds

        from hrm_bench import train
        from hrm_bench.sweeps.sweep import Shared

        shared = Shared()
        cells = self._plan(words, root, shared)
        if self.search is None:
            status = train.run_cells(cells, root, self._launch)
        else:
            declared = cast(dict[str, Any], OmegaConf.to_container(OmegaConf.create(self.search)))
            status = train.run_search(
                declared,
                cells,
                root,
                lambda words: self._cell([*self._launcher_words(), *words], root, shared),
                self._launch,
            )
        if status:
            sys.exit(status)

    def _words(self, arguments: list[str]) -> list[list[str]]:
        """Return the words of each cell, in the order of the sweep's cases and lists. Raises UsageError."""
        from hrm_bench.errors import UsageError

        if self.max_batch_size is not None and self.max_batch_size < 1:
            raise UsageError(f"hydra.sweeper.max_batch_size={self.max_batch_size}: must be at least 1, or null for all")
        return [
            words
            for case in self.cases or [[]]
            for words in self._combinations([*self._parse_config(), *case, *arguments])
        ]

    def _plan(self, combinations: Iterable[Sequence[str]], root: Path, shared: "Shared") -> "list[Cell]":
        """Return the sweep's cells, each once. Raises UsageError."""
        from hrm_bench.errors import UsageError

        cells: dict[Path, Cell] = {}
        faults: dict[str, None] = {}
        for words in combinations:
            try:
                cell = self._cell(words, root, shared)
            except UsageError as error:
                faults.update(dict.fromkeys(error.faults))
            else:
                cells.setdefault(cell.folder, cell)
        if faults:
            raise UsageError(*faults)
        return list(cells.values())

    def _combinations(self, words: list[str]) -> list[list[str]]:
        """Return the words of each combination of listed values; of two words with the same key the last one counts."""
        from hrm_bench.errors import UsageError

        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        overrides = parser.parse_overrides(words)
        for override in overrides:
            if override.is_sweep_override() and override.key_or_group in ("experiment", "experiment.name"):
                raise UsageError(f"{override.input_line}: a sweep is one experiment; give a command for each")
        (combinations,) = self.split_arguments(overrides, None)
        return combinations

    def _cell(self, words: Sequence[str], root: Path, shared: "Shared") -> "Cell":
        """Return the checked cell that these words compose. Raises UsageError.

        Checks take 10 ms, so cells that differ in the seed alone are checked once, unless a value is made of the seed.
        """
        from hrm_bench.config.compose import explained, not_searched
        from hrm_bench.sweeps.sweep import plan

        seeds = [word.removeprefix("seed=") for word in words if PLAIN_SEED.fullmatch(word)]
        but_for_seed = tuple(word for word in words if not PLAIN_SEED.fullmatch(word))
        if len(seeds) == 1 and (alike := self.planned.get(but_for_seed)):
            return alike.reseeded(int(seeds[0]), words)
        cfg = self._composed(words)
        is_of_seed = "seed}" in OmegaConf.to_yaml(cfg)
        note = not_searched(cfg)
        with explained():
            OmegaConf.resolve(cfg)  # once: whoever reads an interpolation parses it
        cell = plan(cfg, words, root, shared)
        if len(seeds) == 1 and not is_of_seed:
            self.planned[but_for_seed] = cell
        if note:
            shared.print(note)
        return cell

    def _composed(self, words: Sequence[str]) -> DictConfig:
        """Return the config that these words compose. Raises UsageError.

        Hydra takes 80 ms to compose, and applies values last. So cells that differ in values alone are composed once.
        """
        from hrm_bench.config.compose import explained, loaded

        assert self.hydra_context is not None
        assert self.config is not None
        loader, config = cast(ConfigLoaderImpl, self.hydra_context.config_loader), self.config
        values, choices = [], list[str]()
        for word in words:
            override = _parsed(word)
            if _is_value(override, loader):
                values.append(override)
            else:
                choices.append(word)
        if (key := tuple(choices)) not in self.composed:
            self.composed[key] = loaded(lambda: loader.load_sweep_config(config, choices))
        cfg = copy.deepcopy(self.composed[key])
        with explained():
            loader._apply_overrides_to_config(values, cfg)
        return cfg

    def _launcher_words(self) -> list[str]:
        """Return the command's choice of a launcher, which a cell's words lack and ``hydra.launcher.KEY`` needs."""
        assert self.config is not None
        return [word for word in self.config.hydra.overrides.task if word.startswith("launcher=")]

    def _launch(self, cells: "Sequence[Cell]", stop: "StopSignal") -> "list[Record]":
        """Let Hydra's launcher run cells; return their records. Raises what the launcher, or a job, raised."""
        from hrm_bench.config.words import quoted
        from hrm_bench.sweeps.sweep import job_words
        from hrm_bench.training import stopping

        assert self.launcher is not None
        variable = f"++hydra.job.env_set.{stopping.VARIABLE}={quoted(str(stop.file))}"  # where jobs look for a request
        # If a job's process is killed, what its libraries could not clean up does not concern the user.
        os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker:UserWarning")
        jobs: list[JobReturn] = []
        while len(jobs) < len(cells):
            batch = [
                [*self._launcher_words(), *job_words(cell), variable]
                for cell in cells[len(jobs) :][: self.max_batch_size]
            ]
            jobs += self.launcher.launch(batch, initial_job_idx=len(jobs))
        return [job.return_value for job in jobs]


@functools.cache
def _parsed(word: str) -> Override:
    return OverridesParser.create().parse_override(word)


def _is_value(override: Override, loader: ConfigLoaderImpl) -> bool:
    """Return whether a word gives a value, and does not change which configs are composed."""
    key = override.key_or_group
    return not (override.is_delete() or key.startswith("hydra") or loader.repository.group_exists(key))


class CellLauncher(Launcher):
    """Hydra's launcher for Ray, with workers in the command's own folder, and signals left to the sweep."""

    def __init__(self, ray: DictConfig) -> None:
        self.ray = ray
        self.context: dict[str, Any] = {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context = {"hydra_context": hydra_context, "task_function": task_function, "config": config}

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        import ray
        from hydra_plugins.hydra_ray_launcher.ray_launcher import RayLauncher

        from hrm_bench.training.stopping import StopSignal

        if not ray.is_initialized():
            ray.init(**_init(self.ray.init, folder=self.context["config"].hydra.runtime.cwd))
            StopSignal.of_process().listen_again()  # Ray has put handlers of its own before the sweep's
        launcher = RayLauncher(self.ray)
        launcher.setup(**self.context)
        return launcher.launch(job_overrides, initial_job_idx)


def _init(settings: DictConfig, *, folder: str) -> dict[str, Any]:
    """Return the arguments of ``ray.init``; on every node, relative paths begin in ``folder``."""

    def enter_folder() -> None:
        os.chdir(folder)

    arguments = cast(dict[str, Any], OmegaConf.to_container(settings, resolve=True))
    arguments["runtime_env"] = {**arguments.get("runtime_env", {}), "worker_process_setup_hook": enter_folder}
    return arguments
