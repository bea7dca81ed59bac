"""Hydra's launcher for Ray, for cells. It stands here because Hydra takes plugins from ``hydra_plugins`` alone.

Hydra imports this module at every start of every Hydra program, so it imports Ray only when it launches.
"""

import os
from collections.abc import Sequence
from typing import Any, cast

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


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

        from hrm_bench.training import stopping

        if not ray.is_initialized():
            ray.init(**_init(self.ray.init, folder=self.context["config"].hydra.runtime.cwd))
            stopping.listen_again()  # Ray has put handlers of its own before the sweep's
        launcher = RayLauncher(self.ray)
        launcher.setup(**self.context)
        return launcher.launch(job_overrides, initial_job_idx)


def _init(given: DictConfig, *, folder: str) -> dict[str, Any]:
    """What Ray is started or joined with; ``folder`` is where relative paths begin, on every node."""

    def enter_folder() -> None:
        os.chdir(folder)

    settings = cast(dict[str, Any], OmegaConf.to_container(given, resolve=True))
    return settings | {"runtime_env": settings.get("runtime_env", {}) | {"worker_process_setup_hook": enter_folder}}
