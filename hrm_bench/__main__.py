"""``python -m hrm_bench``: compose one cell, or with ``-m`` a sweep of them, and run."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from hrm_bench.config.compose import COMPOSITION_ERRORS, conf_folder, not_searched
from hrm_bench.errors import UsageError, end_quietly, explain, of_disk, stop

if TYPE_CHECKING:
    from hrm_bench.records.schema import Record


@hydra.main(config_path=str(conf_folder()), config_name="config", version_base="1.3")
def launch(cfg: DictConfig) -> "Record | None":
    """Run one cell: as a command of its own, or as a job of a sweep, which shows and tells for all its cells."""
    from hrm_bench import status
    from hrm_bench.cells import run
    from hrm_bench.sweeps import sweep

    hydra_config = HydraConfig.get()
    root = Path(hydra_config.runtime.output_dir)
    if hydra_config.mode == RunMode.MULTIRUN:
        return run.run_cell(cfg, root)
    try:
        cell = sweep.plan(cfg, (), root)
    except UsageError as error:  # told here, since Hydra adds a line of its own to what leaves a job
        stop(error)
    if note := not_searched(hydra_config.runtime.choices):
        print(note, file=sys.stderr)
    if cfg.plan:
        status.show_plan([cell], root)
    else:
        sweep.conclude(sweep.execute([cell], root, lambda _: [run.run_cell(cfg, root)]), root=root)
    return None


def main() -> None:
    """Exit status 0, 1 where a cell failed, 2 where the request cannot be met, 130 or 143 where it was interrupted."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here, to be told in one line
    # Hydra takes -m before or after the overrides, not among them.
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda argument: argument not in ("-m", "--multirun"))
    try:
        launch()
    except UsageError as error:
        stop(error)
    except COMPOSITION_ERRORS as error:
        stop(UsageError(explain(error)))
    except ValueError as error:  # Hydra's word for group=3; any other is a fault of ours
        if not str(error).startswith("Config group override"):
            raise
        stop(UsageError(explain(error)))
    except BrokenPipeError:
        end_quietly()
    except OSError as error:
        hint = "choose another folder with hydra.run.dir=FOLDER, or hydra.sweep.dir=FOLDER for a sweep"
        stop(UsageError(of_disk(error, hint)))
    except KeyboardInterrupt:  # before the first cell, or after the last
        print("interrupted; the same command goes on", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
